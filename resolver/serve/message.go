package serve

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"regexp"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// messageOptions limit the size of messages to limit bytes, and keep errors from quoting them.
func messageOptions(limit int) connect.HandlerOption {
	return connect.WithHandlerOptions(
		connect.WithReadMaxBytes(limit),
		connect.WithCompression(
			"gzip", func() connect.Decompressor { return &inflater{limit: limit} },
			func() connect.Compressor { return gzip.NewWriter(io.Discard) },
		),
		connect.WithCodec(binaryCodec{}),
		connect.WithCodec(jsonCodec("json")),
		connect.WithCodec(jsonCodec("json; charset=utf-8")),
	)
}

// An inflater stops when the decompressed message is too large. The library itself would
// read on to report the length, which takes gigabytes of work for a small body.
type inflater struct {
	gzip.Reader

	limit, left int
}

var errTooLong = errors.New("the message is too large")

// Read implements [io.Reader].
func (i *inflater) Read(p []byte) (int, error) {
	if i.left == 0 {
		return 0, errTooLong
	}
	n, err := i.Reader.Read(p[:min(len(p), i.left)])
	i.left -= n
	return n, err
}

// Reset implements [connect.Decompressor].
func (i *inflater) Reset(r io.Reader) error {
	i.left = i.limit + 1 // the extra byte makes the library refuse the message
	return i.Reader.Reset(r)
}

// jsonCodec replaces the library's JSON codec under the same name, because the errors of
// that one quote parts of the message, which may be a value.
type jsonCodec string

// Name implements [connect.Codec].
func (c jsonCodec) Name() string { return string(c) }

// Marshal implements [connect.Codec].
func (jsonCodec) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a message", message)
	}
	return protojson.Marshal(m)
}

// jsonPosition matches the position in an error of protojson.
var jsonPosition = regexp.MustCompile(`\(line \d+:\d+\)`)

// Unmarshal implements [connect.Codec]. It ignores unknown fields, which a newer client may
// send, but for those that may say at which scope a secret is.
func (jsonCodec) Unmarshal(b []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a message", message)
	}
	var t tally
	t.json(b)
	if decode, err := t.check(m); !decode {
		return err
	}
	err := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
	if err == nil {
		return misspelt(b, m.ProtoReflect().Descriptor())
	}
	text := "not JSON of the message " + string(m.ProtoReflect().Descriptor().FullName())
	if at := jsonPosition.FindString(err.Error()); at != "" {
		text += " " + at
	}
	return errors.New(text)
}
