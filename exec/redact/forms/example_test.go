package forms_test

import (
	"fmt"

	"inject/exec/redact/forms"
)

// A value of letters and digits has few forms, because no program escapes them.
func ExampleOf() {
	for _, f := range forms.Of([]byte("s3cr3t77"), 6) {
		if f.Kind != forms.KindNumbers && f.Kind != forms.KindCharset {
			fmt.Printf("%-9s %s\n", f.Kind, f.Bytes)
		}
	}
	// Output:
	// raw       s3cr3t77
	// hex       7333637233743737
	// base64    czNjcjN0Nz
	// base64    czNjcjN0Nzc
	// base64    czNjcjN0Nzc=
	// base64    MzY3IzdDc3
	// base64    zM2NyM3Q3N
	// base64    zM2NyM3Q3Nw
	// base64    zM2NyM3Q3Nw==
	// base64    czNjcjN0NzcK
	// base64    MzY3IzdDc3Cg
	// base64    MzY3IzdDc3Cg==
	// base64    zM2NyM3Q3Nwo
	// base64    zM2NyM3Q3Nwo=
	// shell     \s\3\c\r\3\t\7\7
}

// Other characters are escaped, in each program in its own way.
func ExampleOf_escaped() {
	for _, f := range forms.Of([]byte("it's ok"), 6) {
		switch f.Kind {
		case forms.KindBase64, forms.KindBase64URL, forms.KindHex, forms.KindNumbers, forms.KindCharset:
		default:
			fmt.Printf("%-9s %s\n", f.Kind, f.Bytes)
		}
	}
	// Output:
	// raw       it's ok
	// shell     \i\t\'\s\ \o\k
	// percent   it%27s+ok
	// percent   it%27s%20ok
	// percent   it's%20ok
	// json      it\u0027s ok
	// python    it\'s ok
	// python    it\\\'s ok
	// shell     it'\''s ok
	// shell     it'"'"'s ok
	// shell     it\'s\ ok
	// xml       it&#39;s ok
	// xml       it&#x27;s ok
	// xml       it&#039;s ok
	// xml       it&apos;s ok
	// quoted    it''s ok
	// quoted    it's\ ok
}
