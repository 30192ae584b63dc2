package place

import (
	"fmt"

	"github.com/hashicorp/go-hclog"

	"inject/exec/redact"
	"inject/resolver/secret"
)

// Mask adds the values of secrets, and more patterns, to r, and warns on log of those that
// r does not mask. They are too short or blank: the text around them would be masked, too.
func Mask(r *redact.Redactor, secrets []Secret, log hclog.Logger, more ...redact.Pattern) error {
	for _, s := range secrets {
		more = append(more, redact.Pattern{Name: s.Declaration.Key, Value: s.Value.Reveal()})
	}
	if err := r.Add(more...); err != nil {
		return fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	if unmasked := r.Unmasked(); len(unmasked) > 0 {
		log.Warn("too short or blank, so not masked: what is equal to it would be masked, too (--redact-min-length)",
			"secrets", unmasked)
	}
	return nil
}
