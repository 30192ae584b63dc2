// Package forms lists the ways in which programs write a value: as it is, in base64, in
// a JSON string, in a URL and so on. Package redact searches for all of them. This
// package is pure: [Of] depends on its arguments only, and is safe for concurrent use.
//
// # How to add a form
//
// A form is found only if its bytes are exactly those that the program writes. So begin
// with the program: have it write values with quotes, backslashes, line ends, control
// characters, characters that are not ASCII, and bytes that are not UTF-8.
//
//  1. Add the test first. If the program can be run, add a line with it to real_test.go,
//     among the ways of its language. If it cannot, add a row with the expected bytes to
//     TestFormsOfValue. The test fails and shows which bytes of the value are still seen.
//  2. Choose the place by what the program does with ordinary letters and digits:
//     it leaves them as they are and escapes other characters: add a line to rules
//     (rules.go), or to percents (percent.go) if it writes %XX.
//     It changes them, too, as base64 does: write a method of builder beside those of
//     encoded.go, and call it in [Of]. Append the form to b.arena, then call b.tail.
//     Consider what happens if the value is in the middle of the encoded text: an encoding
//     in groups needs one form for each offset in a group (see builder.aligned), without
//     the characters that depend on the text before and behind.
//  3. Choose the kind. It is shown to users, so one that exists is better than a new one.
//     A new one is a constant in forms.go. If it is an encoding, add it to the kinds of
//     builder.add that have a shortest length, and to shortest in forms_test.go: a short
//     encoded text is equal to innocent words.
//  4. List the form in the comment of [Of], where it may stand under "What is not" so far,
//     and in docs/explanation/masking.md, which has a table of kinds and a list of what is
//     out of reach.
//  5. Run go test ./exec/redact/... and make fuzz. TestFormsOfLargeValues fails if the
//     forms of a value become too large together: each byte of a form costs about 14
//     bytes of memory in the automaton. BenchmarkForms shows what the form costs values that do
//     not need it.
package forms
