package checkpoint

import (
	"fmt"
	"strings"
)

// IdentityError says how a job differs from the job that wrote a checkpoint.
type IdentityError struct {
	Differences []Difference
}

// Difference is one property that differs. If the old job lacked the property, Had is false and Was
// is empty. If the new job lacks it, Has is false and Now is empty.
type Difference struct {
	Name     string
	Was, Now string
	Had, Has bool
}

func (e *IdentityError) Error() string {
	var b strings.Builder
	b.WriteString("the job is not the one that wrote the checkpoint:")
	for i, d := range e.Differences {
		if i > 0 {
			b.WriteByte(';')
		}
		switch {
		case !d.Had:
			fmt.Fprintf(&b, " %s was not set and is now %q", d.Name, d.Now)
		case !d.Has:
			fmt.Fprintf(&b, " %s was %q and is now not set", d.Name, d.Was)
		default:
			fmt.Fprintf(&b, " %s was %q and is now %q", d.Name, d.Was, d.Now)
		}
	}
	return b.String()
}

// Compare returns nil if was and now have the same properties, in any order. Otherwise it returns
// an *IdentityError that names each difference with both values. If a list has several properties
// of one name, the last of them counts.
func Compare(was, now []Property) error {
	old := values(was)
	cur := values(now)
	var e IdentityError
	seen := map[string]bool{}
	for _, list := range [][]Property{was, now} {
		for _, p := range list {
			if seen[p.Name] {
				continue
			}
			seen[p.Name] = true
			d := Difference{Name: p.Name}
			d.Was, d.Had = lookup(old, p.Name)
			d.Now, d.Has = lookup(cur, p.Name)
			if d.Was != d.Now || d.Had != d.Has {
				e.Differences = append(e.Differences, d)
			}
		}
	}
	if e.Differences == nil {
		return nil
	}
	return &e
}

func values(props []Property) map[string]string {
	m := make(map[string]string, len(props))
	for _, p := range props {
		m[p.Name] = p.Value
	}
	return m
}

func lookup(m map[string]string, name string) (string, bool) {
	v, ok := m[name]
	return v, ok
}
