package forms

// A percent is an encoder for URLs: what it leaves as it is, and whether a space
// becomes +, %20, or one of them here and the other there.
type percent struct {
	safe   set
	spaces string
}

// percents begins with that of forms, which alone make \r\n of line ends.
var percents = []percent{
	{safe("*-._"), "+%"},                // URLSearchParams, Java
	{safe("-._~"), "+%"},                // RFC 3986: Go's QueryEscape, Python's quote_plus, curl
	{safe("-._"), "+"},                  // PHP's urlencode
	{safe("-._~/"), "%"},                // Python's quote
	{safe("-._~!*'()"), "%"},            // encodeURIComponent
	{safe("-._~!*'();,/?:@&=+$#"), "%"}, // encodeURI
	{safe("-._~$&+=:@"), "%"},           // Go's PathEscape
	{safe("-._~$&+=:@,/;"), "%"},        // the path of Go's URL
	{safe("-._~$&+=,;"), "%"},           // Go's UserPassword
	{safe("-._~!$%&'()*+,"), "%"},       // user and password in the URL of a browser
}

func safe(marks string) set { return setOf(alphanumeric + marks) }

func (b *builder) percent(text []byte, p percent) {
	has := setOf(text)
	if changed := has.without(p.safe); changed == (set{}) {
		return
	}
	for _, digits := range []string{upperDigits, lowerDigits} {
		for i, space := range []byte(p.spaces) {
			if i > 0 && !has.has(' ') {
				break
			}
			from := len(b.arena)
			for _, c := range text {
				switch {
				case p.safe.has(c):
					b.arena = append(b.arena, c)
				case c == ' ' && space == '+':
					b.arena = append(b.arena, '+')
				default:
					b.arena = append(b.arena, '%', digits[c>>4], digits[c&15])
				}
			}
			b.tail(KindPercent, from)
		}
	}
}
