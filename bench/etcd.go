package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"inject/resolver/secret"
)

// etcdBatch is the number of operations that etcd allows in a transaction by default.
const etcdBatch = 128

// etcdClients has the same clients three times: once for each way to read five keys.
type etcdClients struct {
	atOnce, inTurn, together []*client

	opened []*clientv3.Client
}

func (e *etcdClients) close() error {
	var errs []error
	for _, c := range e.opened {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (c *comparison) openEtcd(s *server, cert pair) (*clientv3.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool()}
	pem, err := os.ReadFile(c.authority.file)
	if err != nil {
		return nil, err
	}
	config.RootCAs.AppendCertsFromPEM(pem)
	loaded, err := tls.LoadX509KeyPair(cert.cert, cert.key)
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{loaded}
	return clientv3.New(clientv3.Config{
		Context: c.ctx, Endpoints: []string{"https://" + s.address}, TLS: config, Logger: zap.NewNop(),
	})
}

// fillEtcd waits until etcd is ready and puts the secrets of f into it, each under its ID.
func (c *comparison) fillEtcd(s *server, f filling) (err error) {
	client, err := c.openEtcd(s, c.tasks[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	ctx, cancel := context.WithTimeout(c.ctx, limit)
	defer cancel()
	for { // until the only member has elected itself leader
		_, err := client.Get(ctx, "ready")
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("etcd does not serve: %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	var puts []clientv3.Op
	put := func() error {
		_, err := client.Txn(ctx).Then(puts...).Commit()
		puts = nil
		return err
	}
	for ref := range f.refs {
		puts = append(puts, clientv3.OpPut(ref.ID(), string(f.value(ref))))
		if len(puts) == etcdBatch {
			if err := put(); err != nil {
				return err
			}
		}
	}
	return put()
}

// etcdClients connects n clients. They know the scope of each secret, because etcd has no
// ladder of scopes to search.
func (c *comparison) etcdClients(n int, s *server, f filling) (*etcdClients, error) {
	e := &etcdClients{}
	for i := range n {
		opened, err := c.openEtcd(s, c.tasks[i%projects])
		if err != nil {
			return nil, errors.Join(err, e.close())
		}
		e.opened = append(e.opened, opened)
		get := func(ctx context.Context, ref secret.Ref) error {
			got, err := opened.Get(ctx, ref.ID(), clientv3.WithSerializable())
			if err == nil && (len(got.Kvs) != 1 || !bytes.Equal(got.Kvs[0].Value, f.value(ref))) {
				err = fmt.Errorf("wrong answer: not what was put at %s", ref.ID())
			}
			return err
		}
		one := func(read func(context.Context, []secret.Ref) error) *client {
			return &client{
				rand: mathrand.New(mathrand.NewPCG(seed, uint64(i))), //nolint:gosec // which keys are read is no secret
				ask: func(ctx context.Context, r *mathrand.Rand) error {
					ctx, cancel := context.WithTimeout(ctx, limit) // as the client of injectd has one
					defer cancel()
					refs := f.choose(r, i%projects).refs()
					return read(ctx, refs[:])
				},
			}
		}
		e.atOnce = append(e.atOnce, one(func(ctx context.Context, refs []secret.Ref) error {
			group, ctx := errgroup.WithContext(ctx)
			for _, ref := range refs {
				group.Go(func() error { return get(ctx, ref) })
			}
			return group.Wait()
		}))
		e.inTurn = append(e.inTurn, one(func(ctx context.Context, refs []secret.Ref) error {
			for _, ref := range refs {
				if err := get(ctx, ref); err != nil {
					return err
				}
			}
			return nil
		}))
		e.together = append(e.together, one(func(ctx context.Context, refs []secret.Ref) error {
			var gets []clientv3.Op
			for _, ref := range refs {
				gets = append(gets, clientv3.OpGet(ref.ID(), clientv3.WithSerializable()))
			}
			got, err := opened.Txn(ctx).Then(gets...).Commit()
			if err != nil {
				return err
			}
			for i, ref := range refs {
				kvs := got.Responses[i].GetResponseRange().Kvs
				if len(kvs) != 1 || !bytes.Equal(kvs[0].Value, f.value(ref)) {
					return fmt.Errorf("wrong answer: not what was put at %s", ref.ID())
				}
			}
			return nil
		}))
	}
	if err := connect(c.ctx, e.inTurn); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}
