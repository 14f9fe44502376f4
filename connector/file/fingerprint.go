package file

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// prefixSize is how much of a file's beginning tells it from another one.
const prefixSize = 64 << 10

// fingerprint returns a file's size and the checksum of its beginning: of its
// first 64 KiB, or of all of it if it had no more when its size was size.
func fingerprint(path string, size int64) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", fmt.Errorf("file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, "", fmt.Errorf("file: %w", err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, min(prefixSize, size, info.Size()))); err != nil {
		return 0, "", fmt.Errorf("file: reading %s: %w", path, err)
	}
	return info.Size(), hex.EncodeToString(h.Sum(nil)[:16]), nil
}
