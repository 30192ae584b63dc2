package harness

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"maps"
	"slices"
)

// Gzip returns data as a gzip file.
func Gzip(t T, data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	check(t, err)
	check(t, w.Close())
	return b.Bytes()
}

// Tar returns a tar archive of files, given as content by name, in the order of their names.
func Tar(t T, files map[string][]byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		check(t, w.WriteHeader(&tar.Header{
			Name: name, Size: int64(len(files[name])), Mode: 0o600,
			Format: tar.FormatUSTAR,
		}))
		_, err := w.Write(files[name])
		check(t, err)
	}
	check(t, w.Close())
	return b.Bytes()
}
