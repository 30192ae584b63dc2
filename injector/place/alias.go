package place

import (
	"slices"
	"strings"

	"inject/resolver/secret"
)

// aliases returns, by the index of their declaration, the further names under which
// file secrets appear in the folder for files, with / between folders: those under which
// the other managers of Flyte's secrets have them, so that a task finds its file whoever
// placed it. For KEY of GROUP: key, GROUP/KEY, GROUP/key and group/key. What is declared
// itself, what two secrets would have, and what would not be below the folder is left
// out.
func aliases(declared []secret.Declaration) [][]string {
	taken := map[string]int{} // how many would have a name; a folder counts as one that two have
	for _, d := range declared {
		if d.Mount == secret.File && d.Path == "" {
			taken[d.Key] += 2
		}
	}
	all := make([][]string, len(declared))
	for i, d := range declared {
		if d.Mount != secret.File || d.Path != "" {
			continue
		}
		names := []string{strings.ToLower(d.Key)}
		if d.Group != "" {
			path := d.Group + "/" + d.Key
			names = append(names, path, d.Group+"/"+strings.ToLower(d.Key), strings.ToLower(path))
		}
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			if name != d.Key && isAlias(name) {
				all[i] = append(all[i], name)
				taken[name]++
			}
		}
	}
	for i := range all {
		all[i] = slices.DeleteFunc(all[i], func(name string) bool {
			top, _, inFolder := strings.Cut(name, "/")
			return taken[name] > 1 || inFolder && taken[top] > 0
		})
	}
	return all
}

// isAlias reports whether name is a path below a folder that hides nothing of ours,
// whose names begin with a dot.
func isAlias(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || len(part) > 255 || strings.ContainsAny(part, "\x00\n") {
			return false
		}
	}
	return len(name) < 1024
}
