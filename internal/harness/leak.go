package harness

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// tail is how many of a value's last bytes count as the value in a search: a mask that
// ends too early leaves them.
const tail = 20

// Forms returns the forms in which a search looks for a value: raw, its last bytes, and as
// JSON, Go, URLs, hexadecimal and base64 at each alignment write it.
func Forms(value string) []string {
	inJSON, _ := json.Marshal(value) // cannot fail for a string
	quoted := strconv.Quote(value)
	forms := []string{
		value, strings.Trim(string(inJSON), `"`), quoted[1 : len(quoted)-1],
		url.QueryEscape(value), url.PathEscape(value), hex.EncodeToString([]byte(value)),
	}
	if len(value) > tail {
		forms = append(forms, value[len(value)-tail:])
	}
	for offset := range 3 { // base64 without the characters that depend on the neighbours
		text := base64.StdEncoding.EncodeToString([]byte("xx"[:offset] + value))
		text = text[(offset*8+5)/6:]
		text = strings.TrimRight(text, "=")
		text = text[:len(text)-1]
		forms = append(forms, text, strings.NewReplacer("+", "-", "/", "_").Replace(text))
	}
	return slices.DeleteFunc(forms, func(form string) bool { return form == "" })
}

// Leaked returns the first of the forms that is in text, "" if none is.
func Leaked(text string, forms []string) string {
	for _, form := range forms {
		if strings.Contains(text, form) {
			return form
		}
	}
	return ""
}

// FindLeak looks for values in texts, both by name, in every form. It returns an error that
// names a text and a value in it, and nil if there is none. It first plants each form of
// each value as a canary in each text, and returns an error if the search misses one.
func FindLeak(texts, values map[string]string) error {
	for name, value := range values {
		forms := Forms(value)
		for where, text := range texts {
			for _, form := range forms {
				if Leaked(text+"canary "+form+" canary", []string{form}) == "" || Leaked(form, forms) == "" {
					return fmt.Errorf("the search does not find a planted %s in %s", name, where)
				}
			}
			if form := Leaked(text, forms); form != "" {
				return fmt.Errorf("%s holds the value %s, as %q", where, name, form)
			}
		}
	}
	return nil
}
