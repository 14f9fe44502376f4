package callbacks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/tensor"
)

// codec is tensor.Values for one number, with the trap in it.
type codec struct{ *trap }

func (c codec) Bind(sig tensor.Signature) (tensor.RowCodec[float32, float32], error) {
	return codec{c.trap}, c.spring("tensor.Codec.Bind")
}

func (c codec) Encode(dst *tensor.Batch, v float32) error {
	if v == 2 {
		if err := c.spring("tensor.RowCodec.Encode"); err != nil {
			return err
		}
	}
	return tensor.AppendValues(dst.Column(0), []float32{v})
}

func (c codec) Decode(v float32, src *tensor.Rows, i int) (float32, error) {
	if v == 2 {
		if err := c.spring("tensor.RowCodec.Decode"); err != nil {
			return 0, err
		}
	}
	out, err := tensor.RowValues[float32](src.Output(0), i, nil)
	return out[0], err
}

// recordCodec is the same for whole records.
type recordCodec struct {
	codec
	at string
}

func (c recordCodec) Bind(tensor.Signature) (tensor.RowCodec[async.Record[float32], float32], error) {
	return c, nil
}

func (c recordCodec) Encode(dst *tensor.Batch, r async.Record[float32]) error {
	if err := c.spring(c.at); err != nil {
		return err
	}
	return c.codec.Encode(dst, r.Value)
}

func (c recordCodec) Decode(r async.Record[float32], src *tensor.Rows, i int) (float32, error) {
	return c.codec.Decode(r.Value, src, i)
}

// channel sends five records through a model, with a configuration that set completes. Only record
// 2 may fail for what is in the codec; a window of one request is used by all of them, so that its
// place is seen to be free again.
func channel(set func(s *sidecartest.Server, cfg *sidecar.Config, tr *trap), script sidecartest.Script) func(*testing.T, *trap) error {
	return virtual(func(t *testing.T, tr *trap) error {
		s := sidecartest.Start(t, script)
		cfg := sidecar.Config{Endpoint: "memory", Model: "model", Window: 1, MaxBatch: 3, Dialer: s.Dialer()}
		if set != nil {
			set(s, &cfg, tr)
		}
		return through(t, sidecar.NewAsyncFunction(cfg, codec{tr}), async.Config{})
	})
}

func through(t *testing.T, fn async.Function[float32, float32], cfg async.Config) error {
	cfg.Hold, cfg.Order = 10*time.Second, async.Unordered
	return last(async.Map(t.Context(), async.Values(slices.Values([]float32{1, 2, 3, 4, 5})), fn, cfg))
}

// oneRecord is channel, where one record fails, and is dropped: the others have their results.
func oneRecord(t *testing.T, tr *trap) error {
	var failure error
	err := virtual(func(t *testing.T, tr *trap) error {
		s := sidecartest.Start(t, sidecartest.Script{})
		cfg := sidecar.Config{Endpoint: "memory", Model: "model", Window: 1, MaxBatch: 3, Dialer: s.Dialer()}
		fn := noted{sidecar.NewAsyncFunction(cfg, codec{tr}), &failure}
		var got []float32
		in := async.Values(slices.Values([]float32{1, 2, 3, 4, 5}))
		for v, err := range async.Map(t.Context(), in, fn, async.Config{OnError: async.OnError{BadRecord: async.Fallback}}) {
			if err != nil {
				return err
			}
			got = append(got, v)
		}
		if want := []float32{2, 6, 8, 10}; !slices.Equal(got, want) {
			t.Errorf("the results are %v; want %v", got, want)
		}
		return nil
	})(t, tr)
	return errors.Join(err, failure)
}

// noted keeps the failure of a record, which has no results.
type noted struct {
	*sidecar.AsyncFunction[float32, float32]
	failure *error
}

func (n noted) Fallback(f async.Failed[float32]) (async.Outputs[float32], error) {
	*n.failure = f.Err
	return async.None[float32](), nil
}

// userConn is a connection of a user's own type.
type userConn struct {
	net.Conn
	*trap
}

func (c userConn) Read(p []byte) (int, error) {
	if err := c.spring("net.Conn.Read"); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c userConn) Write(p []byte) (int, error) {
	if err := c.spring("net.Conn.Write"); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c userConn) Close() error { return errors.Join(c.spring("net.Conn.Close"), c.Conn.Close()) }

func (c userConn) RemoteAddr() net.Addr {
	c.spring("net.Conn.RemoteAddr")
	return c.Conn.RemoteAddr()
}

// dialled has a Dialer that returns one.
func dialled(s *sidecartest.Server, cfg *sidecar.Config, tr *trap) {
	dial := cfg.Dialer
	cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
		c, err := dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return userConn{c, tr}, nil
	}
}

// conn is a ready connection.
type conn struct {
	*grpc.ClientConn
	*trap
	at string
}

func (c conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if err := c.spring(c.at); err != nil {
		return err
	}
	return c.ClientConn.Invoke(ctx, method, args, reply, opts...)
}

// certificate is one for nobody.
var certificate = func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	// Virtual time begins in the year 2000.
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}()

var encrypted = sidecartest.Script{Options: []grpc.ServerOption{
	grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}})),
}}

var sidecarRows = map[string]row{
	"sidecar.AsyncFunction.Open(done)": {why: byUser},
	"sidecar.NewAsyncFunction(codec)":  {why: nested},
	"tensor.Codec.Bind":                {run: channel(nil, sidecartest.Script{}), where: "Bind of codec", returns: true},
	"tensor.RowCodec.Encode":           {run: oneRecord, where: "Encode of the codec", returns: true},
	"tensor.RowCodec.Decode":           {run: oneRecord, where: "Decode of the codec", returns: true},
	"+net.Conn.Read":                   {run: channel(dialled, sidecartest.Script{}), where: "Read of the Dialer's connection"},
	"+net.Conn.Write":                  {run: channel(dialled, sidecartest.Script{}), where: "Write of the Dialer's connection"},
	"+net.Conn.RemoteAddr":             {run: channel(dialled, sidecartest.Script{}), where: "RemoteAddr of the Dialer's connection"},
	"+net.Conn.Close":                  {run: channel(dialled, sidecartest.Script{}), returns: true, check: harmless},

	"sidecar.NewRecordFunction(codec)": {where: "Encode of the codec", returns: true, run: virtual(func(t *testing.T, tr *trap) error {
		s := sidecartest.Start(t, sidecartest.Script{})
		cfg := sidecar.Config{Endpoint: "memory", Model: "model", Dialer: s.Dialer()}
		return through(t, sidecar.NewRecordFunction(cfg, recordCodec{codec{tr}, tr.at}), async.Config{})
	})},
	"sidecar.Config.Observe": {where: "Config.Observe", run: channel(func(_ *sidecartest.Server, cfg *sidecar.Config, tr *trap) {
		cfg.Observe = func(sidecar.Request) { tr.spring(tr.at) }
	}, sidecartest.Script{})},
	"sidecar.Config.Dialer": {where: "the Dialer", returns: true, run: channel(func(s *sidecartest.Server, cfg *sidecar.Config, tr *trap) {
		cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			if err := tr.spring(tr.at); err != nil {
				return nil, err
			}
			return s.Dialer()(ctx, address)
		}
	}, sidecartest.Script{})},
	"sidecar.Config.Conn": {where: "Invoke of the connection", returns: true, run: virtual(func(t *testing.T, tr *trap) error {
		s := sidecartest.Start(t, sidecartest.Script{})
		own, err := s.Dial()
		if err != nil {
			return err
		}
		defer own.Close()
		return through(t, sidecar.NewAsyncFunction(sidecar.Config{Model: "model", Conn: conn{own, tr, tr.at}}, codec{tr}), async.Config{})
	})},
	"sidecar.Config.TLS": {where: "VerifyConnection of the TLS configuration", returns: true, run: channel(func(_ *sidecartest.Server, cfg *sidecar.Config, tr *trap) {
		cfg.TLS = &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return tr.spring(tr.at) }}
	}, encrypted)},
	"sidecar.Config.Logger": {returns: true, check: harmless, run: func(t *testing.T, tr *trap) error {
		own := &trap{at: "log", mistake: tr.mistake}
		err := channel(func(s *sidecartest.Server, cfg *sidecar.Config, _ *trap) {
			cfg.Logger = own.logger()
			dial, failed := cfg.Dialer, false
			cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
				if !failed { // which is logged
					failed = true
					return nil, errNever
				}
				return dial(ctx, address)
			}
		}, sidecartest.Script{})(t, tr)
		tr.sprung.Store(own.sprung.Load())
		return err
	}},
	"+trace.Tracer of the channel": {where: "of a span", run: virtual(func(t *testing.T, tr *trap) error {
		s := sidecartest.Start(t, sidecartest.Script{})
		cfg := sidecar.Config{Endpoint: "memory", Model: "model", Dialer: s.Dialer()}
		return through(t, sidecar.NewAsyncFunction(cfg, codec{tr}), async.Config{Tracer: requests{tracer{tr}}})
	})},
}
