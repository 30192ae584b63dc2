package place

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"inject/resolver/secret"
)

// ParentVar holds a digest of the declared list that was placed and of its scope, by
// which an inject inside the task can tell that its work is done.
const ParentVar = "INJECT_PARENT"

// Placed reports whether an inject above us has placed the declared list where it would
// be placed here, so that what we start has it and is masked, too, as far as it writes to
// what that one has given it; its files are in dir. The scope is compared only if it was said here: an inject
// above us may know it from what is not passed on. It returns an error if the environment
// says so and it is not so.
func Placed(
	environ []string, dir, filesDir string, scope secret.Scope, said bool, declared []secret.Declaration,
) (bool, error) {
	variables := map[string]string{}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		variables[name] = value
	}
	list, at := listDigest(declared), scopeDigest(scope)
	parent := variables[ParentVar]
	if !strings.HasPrefix(parent, list) || said && parent != list+at || filesDir != "" && absolute(filesDir) != dir {
		return false, nil
	}
	var errs []error
	for _, d := range declared {
		for _, name := range d.EnvVars() {
			if _, ok := variables[name]; !ok {
				errs = append(errs, notPlaced(d, "the variable "+name+" is not set"))
			}
		}
		if d.Mount == secret.File {
			path := cleanJoin(dir, d.FileName())
			if info, err := os.Stat(path); !filepath.IsAbs(path) || err != nil || !info.Mode().IsRegular() {
				errs = append(errs, notPlaced(d, "there is no file "+path))
			}
		}
	}
	return true, errors.Join(errs...)
}

func notPlaced(d secret.Declaration, why string) error {
	return secret.WithHint(
		fmt.Errorf("%w: %s: %s says that it is placed, and %s", secret.ErrInvalid, d.Key, ParentVar, why),
		"only an inject above this one sets %s; without it the secrets are looked up here", ParentVar)
}

// listDigest and scopeDigest are the two halves of ParentVar: 16 bytes of a SHA-256
// each. A declaration has six words, so that no two lists have the same.
func listDigest(declared []secret.Declaration) string {
	var words []string
	for _, d := range declared {
		words = append(words, d.Group, d.Key, d.Version, d.Mount.String(), d.EnvVar, d.Path)
	}
	return digest(words)
}

func scopeDigest(scope secret.Scope) string {
	return digest([]string{scope.Org, scope.Project, scope.Domain})
}

// digest is of each word after its length.
func digest(words []string) string {
	var b []byte
	for _, word := range words {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(word)))
		b = append(b, word...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
