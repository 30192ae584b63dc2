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

// ParentVar is the variable that tells an inject inside the task which secrets are placed
// already. Its value is a digest of the declared list and one of the scope, each of 32
// hexadecimal digits.
const ParentVar = "INJECT_PARENT"

// Placed reports whether an outer inject, which started this process, already placed the declared
// list as it would be placed here. Its masks then cover whatever our command writes to the
// inherited stdout and stderr.
//
// dir is the folder in which the outer inject placed files, and filesDir the folder that was
// asked for here, if any. The scope is compared only if said is true, that is, if it was given
// here: the outer inject may have it from pod info or flags that this process does not see.
//
// The error names every secret that environ lists as placed although its variable or file is
// missing.
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
		var missing []error
		for _, name := range d.EnvVars() {
			if _, ok := variables[name]; !ok {
				missing = append(missing, notPlaced(d, "the variable "+name+" is not set"))
			}
		}
		if d.HasFile() {
			path := cleanJoin(dir, d.FileName())
			info, err := os.Stat(path)
			switch found := filepath.IsAbs(path) && err == nil && info.Mode().IsRegular(); {
			case d.Mount == secret.Any && (found && d.EnvVar == "" || missing == nil):
				missing = nil // the one is placed, and the other cannot be or was not in earlier versions
			case !found:
				missing = append(missing, notPlaced(d, "there is no file "+path))
			}
		}
		errs = append(errs, missing...)
	}
	return true, errors.Join(errs...)
}

func notPlaced(d secret.Declaration, why string) error {
	return secret.WithHint(
		fmt.Errorf("%w: %s: %s says that it is placed, and %s", secret.ErrInvalid, d.Key, ParentVar, why),
		"only an inject above this one sets %s: unset it, and the secrets are looked up here", ParentVar)
}

// listDigest returns the first half of ParentVar's value. Every declaration adds six words, so
// two lists never give the same words.
func listDigest(declared []secret.Declaration) string {
	var words []string
	for _, d := range declared {
		words = append(words, d.Group, d.Key, d.Version, d.Mount.String(), d.EnvVar, d.Path)
	}
	return digest(words)
}

// scopeDigest returns the second half of ParentVar's value.
func scopeDigest(scope secret.Scope) string {
	return digest([]string{scope.Org, scope.Project, scope.Domain})
}

// digest returns the first 16 bytes of the SHA-256 of words, in hexadecimal. Each word is
// preceded by its length, so that no word can look like the end of one and the beginning of the
// next.
func digest(words []string) string {
	var b []byte
	for _, word := range words {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(word)))
		b = append(b, word...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
