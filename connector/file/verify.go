package file

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/tensorferry/tensorferry/internal/fsx"
)

// Verified says what VerifyParts has found.
type Verified struct {
	// Dir is the folder of the parts.
	Dir string
	// Parts is the number of parts that are there, and Bytes is their size.
	Parts int
	Bytes int64
	// Unknown counts the parts whose checksums are not known, because an earlier version
	// published them.
	Unknown int
	// Pending counts the parts that still have hidden names, because the process ended before
	// it could publish them.
	Pending int
	// Taken counts the parts that are missing, as SinkConfig.Consumed allows it.
	Taken int
	// Wrong says which parts are missing or differ from what was written.
	Wrong []string
}

// VerifyParts reads everything that a sink of part files has published, and compares it with the
// sink's state in a checkpoint. plan is the sink's plan in that checkpoint. ours is false if the
// state is not that of such a sink. The error says why the comparison could not be finished.
func VerifyParts(ctx context.Context, state, plan []byte) (v Verified, ours bool, err error) {
	st, err := parseState(state)
	if err != nil || st.Dir == "" {
		return v, false, nil
	}
	p, err := parsePlan(plan)
	if err != nil {
		return v, true, err
	}
	v.Dir = st.Dir
	c := &committer{fs: fsx.OS, dir: st.Dir}
	err = c.each(ctx, st, p, func(p standing) error {
		if !p.there && st.Consumed {
			v.Taken++
			return nil
		}
		wrong := p.wrong()
		if wrong == "" && p.info.sum != "" {
			sum, err := sumOf(ctx, filepath.Join(st.Dir, p.file))
			if err != nil {
				return err
			}
			if sum != p.info.sum {
				wrong = "is not what was written: its checksum differs"
			}
		}
		if wrong != "" {
			v.Wrong = append(v.Wrong, filepath.Join(st.Dir, p.name)+" "+wrong)
			return nil
		}
		v.Parts++
		v.Bytes += p.size
		if p.info.sum == "" {
			v.Unknown++
		}
		if p.file != p.name {
			v.Pending++
		}
		return nil
	})
	if lost, ok := errors.AsType[*lostError](err); ok {
		v.Wrong, err = append(v.Wrong, strings.TrimPrefix(lost.text, "file: ")), nil
	}
	return v, true, err
}

// sumOf reads a file and returns its checksum.
func sumOf(ctx context.Context, name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("file: %w", err)
	}
	defer f.Close()
	h := crc32.New(castagnoli)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		_, err := io.CopyN(h, f, 4<<20)
		if err == io.EOF {
			return fmt.Sprintf("%08x", h.Sum32()), nil
		}
		if err != nil {
			return "", fmt.Errorf("file: reading %s: %w", name, err)
		}
	}
}
