package guard

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// chunks reads the content of a body in aws-chunked: frames of SIZE[;chunk-signature=…]CRLF CONTENT CRLF,
// an empty one at the end, and trailers NAME:VALUE CRLF behind it, up to an empty line
// (docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html). The signatures of frames are not
// checked: that of the request has told that it is the task's.
type chunks struct {
	src      io.Reader
	r        *bufio.Reader // made by the first Read: before that the request may wait for memory
	left     int64         // of the current frame
	begun    bool
	ended    bool
	trailers map[string]string
}

const (
	maxFrameLine = 1 << 10
	maxTrailers  = 10
)

func newChunks(r io.Reader) *chunks {
	return &chunks{src: r, trailers: map[string]string{}}
}

var errChunk = refuse(http.StatusBadRequest, "IncompleteBody",
	"inject: the body is not in aws-chunked, as its head says")

// Read implements [io.Reader].
func (c *chunks) Read(p []byte) (int, error) {
	if c.r == nil {
		c.r = bufio.NewReaderSize(c.src, 32<<10)
	}
	if c.left == 0 && !c.ended {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if c.ended {
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = errChunk
	}
	return n, err
}

// next reads the head of a frame, and of the last one all that follows.
func (c *chunks) next() error {
	if c.begun {
		if line, err := c.line(); err != nil || line != "" {
			return errChunk
		}
	}
	c.begun = true
	line, err := c.line()
	if err != nil {
		return err
	}
	size, _, _ := strings.Cut(line, ";")
	n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 62)
	if err != nil {
		return errChunk
	}
	if c.left = int64(n); n > 0 {
		return nil
	}
	c.ended = true
	for range maxTrailers {
		line, err := c.line()
		if line == "" && (err == nil || errors.Is(err, errChunk)) { // the empty line may be missing
			return nil
		}
		name, value, ok := strings.Cut(line, ":")
		if err != nil || !ok {
			return errChunk
		}
		if strings.HasPrefix(strings.ToLower(name), "x-amz-checksum-") {
			c.trailers[name] = strings.TrimSpace(value)
		}
	}
	return errChunk
}

// line reads a line without its CRLF.
func (c *chunks) line() (string, error) {
	b, err := c.r.ReadSlice('\n')
	if err != nil || len(b) > maxFrameLine {
		return "", errChunk
	}
	return string(bytes.TrimRight(b, "\r\n")), nil
}

// checksumLengths are those of the checksums that may follow a body, in base64.
var checksumLengths = map[string]int{
	"x-amz-checksum-crc32": 8, "x-amz-checksum-crc32c": 8, "x-amz-checksum-crc64nvme": 12,
	"x-amz-checksum-sha1": 28, "x-amz-checksum-sha256": 44,
}

// rechunk makes out a request whose body is that of s in one frame, with the checksum that the task
// has put behind its own frames. That is known only when all of the body has been sent.
func (b *body) rechunk(out *sending, s io.Reader) {
	trailer := strings.ToLower(out.header.Get("X-Amz-Trailer"))
	length, known := checksumLengths[trailer]
	if !known {
		b.unchunk(out)
		out.hash = unsignedPayload
		return
	}
	begin := fmt.Sprintf("%x\r\n", b.size)
	end := func() string {
		value := b.frames.trailers[trailer]
		return "\r\n0\r\n" + trailer + ":" + fmt.Sprintf("%-*s", length, value) + "\r\n\r\n"
	}
	out.hash = unsignedTrailer
	out.length = int64(len(begin)) + b.size + int64(len("\r\n0\r\n"+trailer+":")+length+len("\r\n\r\n"))
	out.body = io.MultiReader(strings.NewReader(begin), s, &late{text: end})
}

// late is a reader of a text that is made when it is first read.
type late struct {
	text func() string
	r    *strings.Reader
}

// Read implements [io.Reader].
func (l *late) Read(p []byte) (int, error) {
	if l.r == nil {
		l.r = strings.NewReader(l.text())
	}
	return l.r.Read(p)
}
