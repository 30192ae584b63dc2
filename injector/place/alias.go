package place

import (
	"slices"
	"strings"

	"inject/resolver/secret"
)

// aliases returns the further names of each declared file in the folder for files, in the order
// of declared, with / between folders. Flyte's secret managers name a file differently: for KEY
// of GROUP they use key, GROUP/KEY, GROUP/key or group/key. With all of these a task finds its
// file whichever manager it was written for. A name is left out if a declared file has it, if two
// keys would have it, or if it would be outside the folder or hidden in it.
func aliases(declared []secret.Declaration) [][]string {
	const several = "" // stands for the keys of a name that more than one would have
	owner := map[string]string{}
	for _, d := range declared {
		if d.HasFile() && d.Path == "" {
			owner[d.Key] = several
		}
	}

	all := make([][]string, len(declared))
	for i, d := range declared {
		if !d.HasFile() || d.Path != "" {
			continue
		}
		names := []string{strings.ToLower(d.Key)}
		if d.Group != "" {
			path := d.Group + "/" + d.Key
			names = append(names, path, d.Group+"/"+strings.ToLower(d.Key), strings.ToLower(path))
		}
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			if !isAlias(name) {
				continue
			}
			switch key, taken := owner[name]; {
			case !taken:
				owner[name], all[i] = d.Key, append(all[i], name)
			case key != d.Key:
				owner[name] = several
			}
		}
	}

	for i := range all {
		all[i] = slices.DeleteFunc(all[i], func(name string) bool {
			top, _, inFolder := strings.Cut(name, "/")
			_, isFile := owner[top]
			return owner[name] == several || inFolder && isFile
		})
	}
	return all
}

// isAlias reports whether name is a path below the folder for files. A name that begins with a
// dot is none, since it may be one of our own files.
func isAlias(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || len(part) > 255 || strings.ContainsAny(part, "\x00\n") {
			return false
		}
	}
	return len(name) < 1024
}
