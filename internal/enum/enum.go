// Package enum names the values of enumerations. It must not know any enumeration.
package enum

import "fmt"

// Name returns the name of v, which is names[v]. For a value without a name, or with an empty one,
// it returns what and the number, as in class(9), so that it does not look like a named value. Name
// allocates nothing for a value with a name.
func Name[E ~uint8](what string, v E, names []string) string {
	if int(v) < len(names) && names[v] != "" {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", what, uint8(v))
}
