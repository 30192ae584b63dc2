package forms

// A percent is an encoder for URLs. It leaves the bytes of safe as they are. spaces has the
// first characters of what it writes for a space: "+", "%" for %20, or both if there are
// programs that do the one and programs that do the other.
type percent struct {
	safe   set
	spaces string
}

// percents has one line for each way in which a program encodes parts of a URL. The first
// is that of HTML forms, which alone write \r\n for a line end: escaped relies on that.
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
	{safe("-._~!$%&'()*+,"), "%"},       // user and password in the URL class of browsers and Node
}

// safe returns letters, digits and marks as a set.
func safe(marks string) set { return setOf(alphanumeric + marks) }

// percent adds text as p writes it, with each spelling of the digits and of a space.
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
			if !b.room(len(text)) {
				return
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
