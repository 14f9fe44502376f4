//go:build !unix

package fsx

import "io/fs"

func umask() fs.FileMode { return 0 }
