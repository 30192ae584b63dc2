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
//     among the ways of its language: the expression that encodes v, and a regular
//     expression for all that may stay visible around the value, such as quotes. Add a line
//     in which other text precedes the value, too. If the program cannot be run, add rows
//     with the expected bytes to TestFormsOfValue. The test fails and prints what is visible.
//  2. Choose the place by what the program does with ordinary letters and digits.
//     If it leaves them as they are and escapes other characters, add a line to rules
//     (rules.go), or to percents (percent.go) if it writes %XX.
//     If it changes them, too, as base64 does, write a method of builder beside those in
//     encoded.go, and call it in [Of]. Append the bytes to b.arena, then call b.tail.
//     An encoding in groups needs one form for each offset of the value in a group, without
//     the characters that depend on the text before it, once with and once without those
//     that depend on the text behind it (see builder.aligned).
//  3. Choose the kind. It is shown to users, so one that exists is better than a new one. A
//     new one is a constant in forms.go. If it is an encoding, add it to the kinds in
//     builder.add and in shortest (forms_test.go) that have a least length, because a short
//     encoded text is equal to innocent words. The shortest of the tests' values may then
//     stay visible in the middle of a text: let the regular expression of that line allow it.
//  4. List the form in the comment of [Of], where it may stand under "What is not" so far,
//     and in docs/explanation/masking.md, which has a table of kinds and a list of what is
//     out of reach. The table and order in exec/redact/expand.go have the kinds in the order
//     in which forms are kept if a value is too large for all of them.
//  5. Run go test ./exec/redact/... and
//     go test -run '^$' -fuzz FuzzForms -fuzztime 300000x ./exec/redact/forms.
//     TestFormsOfLargeValues fails if the forms of a value become too large together: each
//     byte of a form takes up to 14 bytes of memory. BenchmarkForms shows what the new form
//     costs values that do not need it; escaped forms cost them nothing.
package forms
