package shm

import (
	"crypto/rand"
	"strings"
)

// prefix begins the name of every object and of every claim.
const prefix = "tensorferry-"

// Claim is a name that belongs to its process as long as the process lives. It begins with
// "tensorferry-".
type Claim struct {
	name string
	free func()
}

// Name returns the name. Names that begin with it and a dash belong to the claim too.
func (c *Claim) Name() string { return c.name }

// Free releases the name. Further calls do nothing.
func (c *Claim) Free() { c.free() }

// split takes a claim's name apart: the place where its process can be checked, and the claim's id.
func split(name string) (place, id string, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", "", false
	}
	place, rest, _ = strings.Cut(rest, "-")
	id, _, _ = strings.Cut(rest, "-")
	return place, id, place != "" && len(id) == len(rand.Text())
}
