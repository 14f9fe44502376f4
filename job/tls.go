package job

import (
	"crypto/tls"
	"crypto/x509"
	"os"
)

// LoadTLS reads the certificate files of the section t, whose path in the job file is path
// ("infer.tls"). The error is a Fault.
func (s *Spec) LoadTLS(t *TLS, path string) (*tls.Config, error) {
	cfg := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, s.Fault(path+".ca", "%v", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, s.Fault(path+".ca", "%s holds no certificate in PEM form", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, s.Fault(path+".cert", "the certificate %s with the key %s: %v", t.Cert, t.Key, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
