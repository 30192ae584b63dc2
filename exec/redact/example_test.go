package redact_test

import (
	"fmt"
	"io"
	"os"
	"strings"

	"inject/exec/redact"
)

// A value is masked in every form in which programs write it, however the writes split it.
func Example() {
	r := redact.New(6, redact.Pattern{Name: "DB_PASSWORD", Value: []byte(`p"ss w0rd`)})
	w := r.Writer(os.Stdout)
	_, _ = io.WriteString(w, `{"password": "p\"ss w0rd"}`+"\n")
	_, _ = io.WriteString(w, "/login?password=p%22ss+w0rd\n")
	_, _ = io.WriteString(w, `connected with p"s`)
	_, _ = io.WriteString(w, "s w0rd\n")
	if err := w.Close(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// {"password": "[REDACTED:DB_PASSWORD]"}
	// /login?password=[REDACTED:DB_PASSWORD]
	// connected with [REDACTED:DB_PASSWORD]
}

// Values that are too short are not masked. Their names should be shown to the user.
func ExampleRedactor_Unmasked() {
	r := redact.New(6,
		redact.Pattern{Name: "TOKEN", Value: []byte("tok-5J8fPq2xR7")},
		redact.Pattern{Name: "PIN", Value: []byte("1234")})
	fmt.Println(r.Unmasked())
	// Output: [PIN]
}

// Bytes that may be the beginning of a value are held back until they are decided.
func ExampleRedactor_Writer() {
	var seen strings.Builder
	w := redact.New(6, redact.Pattern{Name: "TOKEN", Value: []byte("tok-5J8fPq2xR7")}).Writer(&seen)
	_, _ = io.WriteString(w, "a tok-")
	fmt.Printf("%q\n", seen.String())
	_, _ = io.WriteString(w, "en")
	fmt.Printf("%q\n", seen.String())
	// Output:
	// "a "
	// "a tok-en"
}

// Found tells which values were masked, and where.
func ExampleWriter() {
	w := redact.New(6, redact.Pattern{Name: "TOKEN", Value: []byte("tok-5J8fPq2xR7")}).Writer(io.Discard)
	w.Found = func(f redact.Find) { fmt.Println(f.Offset, f.Name, f.Kind) }
	_, _ = io.WriteString(w, "the token is tok-5J8fPq2xR7, or dG9rLTVKOGZQcTJ4Ujc=")
	_ = w.Close()
	// Output:
	// 13 TOKEN raw
	// 32 TOKEN base64
}

// A Writer is an io.ReaderFrom, so io.Copy reads into its buffer.
func ExampleWriter_ReadFrom() {
	w := redact.New(6, redact.Pattern{Name: "TOKEN", Value: []byte("tok-5J8fPq2xR7")}).Writer(os.Stdout)
	n, err := io.Copy(w, strings.NewReader("Bearer tok-5J8fPq2xR7\n"))
	if err == nil {
		err = w.Close()
	}
	fmt.Println(n, err)
	// Output:
	// Bearer [REDACTED:TOKEN]
	// 22 <nil>
}
