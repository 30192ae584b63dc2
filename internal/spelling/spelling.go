// Package spelling guesses what a mistyped name was meant to be, for hints such as
// "did you mean --store?".
package spelling

// maxDistance is how many letters may be wrong for a guess: one slip of the finger, since
// two letters in the wrong order count as two.
const maxDistance = 2

// Nearest returns the known name that word is most probably a misspelling of, the first of
// equally near ones, or "" if none is near.
func Nearest(word string, known []string) string {
	nearest, least := "", maxDistance+1
	for _, name := range known {
		if len(name)-len(word) >= least || len(word)-len(name) >= least {
			continue // at least that far apart; and a long word costs no time
		}
		if d := distance(word, name); d < least {
			nearest, least = name, d
		}
	}
	return nearest
}

// distance returns Levenshtein's: how many bytes must be changed, added or removed to make
// b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // of the prefix of a so far to each prefix of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal, row[j+1] = row[j+1], min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
