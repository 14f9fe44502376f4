package guard

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"io"
	"reflect"
	"slices"
)

// TLS returns a copy of c in which panics of the user's code become errors of the handshake, and
// are passed to broke. That covers the functions of c, and values of the user's own types: a source
// of randomness, a log of keys, a cache of sessions, private keys.
func TLS(c *tls.Config, broke func(error)) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		name, f := v.Type().Field(i).Name, v.Field(i)
		if f.Kind() != reflect.Func || f.IsNil() || !f.CanSet() {
			continue
		}
		f.Set(reflect.MakeFunc(f.Type(), guarded(name+" of the TLS configuration", reflect.ValueOf(f.Interface()), broke)))
	}
	if c.Rand != nil {
		c.Rand = random{c.Rand, broke}
	}
	if c.KeyLogWriter != nil {
		c.KeyLogWriter = keyLog{c.KeyLogWriter, broke}
	}
	if c.ClientSessionCache != nil {
		c.ClientSessionCache = sessions{c.ClientSessionCache, broke}
	}
	c.Certificates = slices.Clone(c.Certificates)
	for i := range c.Certificates {
		c.Certificates[i].PrivateKey = privateKey(c.Certificates[i].PrivateKey, broke)
	}
	if get := c.GetClientCertificate; get != nil {
		c.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			certificate, err := get(info)
			return withKey(certificate, broke), err
		}
	}
	if get := c.GetCertificate; get != nil {
		c.GetCertificate = func(info *tls.ClientHelloInfo) (*tls.Certificate, error) {
			certificate, err := get(info)
			return withKey(certificate, broke), err
		}
	}
	return c
}

var errorType = reflect.TypeFor[error]()

// guarded calls f with Apart. If f panics, its results are zero, except for the error.
func guarded(where string, f reflect.Value, broke func(error)) func([]reflect.Value) []reflect.Value {
	t := f.Type()
	last := t.NumOut() - 1
	fails := last >= 0 && t.Out(last) == errorType
	return func(in []reflect.Value) (out []reflect.Value) {
		err := tell(where, broke, func() error {
			out = f.Call(in)
			if fails {
				err, _ := out[last].Interface().(error)
				return err
			}
			return nil
		})
		if _, ok := errors.AsType[*Panic](err); ok {
			out = make([]reflect.Value, t.NumOut())
			for i := range out {
				out[i] = reflect.Zero(t.Out(i))
			}
			if fails {
				out[last] = reflect.ValueOf(&err).Elem()
			}
		}
		return out
	}
}

// tell calls f with Apart, and passes a panic to broke.
func tell(where string, broke func(error), f func() error) error {
	err := Apart(where, f)
	if p, ok := errors.AsType[*Panic](err); ok {
		broke(p)
	}
	return err
}

type random struct {
	io.Reader
	broke func(error)
}

func (r random) Read(p []byte) (n int, err error) {
	err = tell("Read of Rand of the TLS configuration", r.broke, func() (err error) {
		n, err = r.Reader.Read(p)
		return err
	})
	return n, err
}

type keyLog struct {
	io.Writer
	broke func(error)
}

func (w keyLog) Write(p []byte) (n int, err error) {
	err = tell("Write of KeyLogWriter of the TLS configuration", w.broke, func() (err error) {
		n, err = w.Writer.Write(p)
		return err
	})
	return n, err
}

type sessions struct {
	cache tls.ClientSessionCache
	broke func(error)
}

func (s sessions) Get(key string) (session *tls.ClientSessionState, ok bool) {
	err := tell("Get of ClientSessionCache of the TLS configuration", s.broke, func() error {
		session, ok = s.cache.Get(key)
		return nil
	})
	return session, ok && err == nil
}

func (s sessions) Put(key string, state *tls.ClientSessionState) {
	_ = tell("Put of ClientSessionCache of the TLS configuration", s.broke, func() error {
		s.cache.Put(key, state)
		return nil
	})
}

// signer is a private key of a user's own type, for example one in a hardware device. Keys that
// only decrypt are not guarded: they are for key exchanges that are no longer used.
type signer struct {
	public crypto.PublicKey
	key    crypto.Signer
	broke  func(error)
}

// privateKey returns a key with guarded methods. Keys of the standard library are returned
// unchanged.
func privateKey(key crypto.PrivateKey, broke func(error)) crypto.PrivateKey {
	switch key.(type) {
	case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey, signer:
		return key
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return key
	}
	g := signer{key: s, broke: broke}
	_ = tell("Public of a private key of the TLS configuration", broke, func() error {
		g.public = s.Public()
		return nil
	})
	return g
}

func (s signer) Public() crypto.PublicKey { return s.public }

func (s signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	err = tell("Sign of a private key of the TLS configuration", s.broke, func() (err error) {
		signature, err = s.key.Sign(rand, digest, opts)
		return err
	})
	return signature, err
}

// withKey guards the key of a certificate that a function has returned.
func withKey(c *tls.Certificate, broke func(error)) *tls.Certificate {
	if c == nil {
		return nil
	}
	guarded := *c
	guarded.PrivateKey = privateKey(c.PrivateKey, broke)
	return &guarded
}
