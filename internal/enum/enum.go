// Package enum names the values of enumerations. It must never know any of them.
package enum

import "fmt"

// Name returns the name of v, which is names[v]. A value without one, as an empty name is, becomes
// what it is with its number, as in class(9): it must not look like a value that has a name. Name
// allocates nothing for a value that has one.
func Name[E ~uint8](what string, v E, names []string) string {
	if int(v) < len(names) && names[v] != "" {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", what, uint8(v))
}
