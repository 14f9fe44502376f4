package sidecar

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
)

// distrusts reports whether a handshake failed because one side does not trust, or understand, the
// other, so that the next one would fail in the same way.
func distrusts(err error) bool {
	if verify, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && verify != nil {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true // the server does not speak TLS
	}
	if remote, ok := errors.AsType[*net.OpError](err); ok && remote.Op == "remote error" && remote.Err != nil {
		return finalAlerts[remote.Err.Error()]
	}
	for _, is := range []func(error) bool{isError[x509.UnknownAuthorityError], isError[x509.HostnameError], isError[x509.CertificateInvalidError]} {
		if is(err) {
			return true
		}
	}
	return false
}

func isError[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// finalAlerts holds the TLS alerts by which a server refuses this side, its certificate or its
// protocol. They are kept as crypto/tls's messages, because crypto/tls does not export their
// numbers. All other alerts may pass: a server that is starting or stopping says internal_error or
// user_canceled, and a connection that corrupts data leads to bad_record_mac.
var finalAlerts = func() map[string]bool {
	words := map[string]bool{}
	for _, alert := range []tls.AlertError{
		40,  // handshake_failure
		42,  // bad_certificate
		43,  // unsupported_certificate
		44,  // certificate_revoked
		45,  // certificate_expired
		46,  // certificate_unknown
		47,  // illegal_parameter
		48,  // unknown_ca
		49,  // access_denied
		51,  // decrypt_error: a signature that does not fit its certificate
		70,  // protocol_version
		71,  // insufficient_security
		86,  // inappropriate_fallback
		109, // missing_extension
		110, // unsupported_extension
		111, // certificate_unobtainable
		112, // unrecognized_name
		113, // bad_certificate_status_response
		114, // bad_certificate_hash_value
		115, // unknown_psk_identity
		116, // certificate_required
		120, // no_application_protocol
	} {
		words[alert.Error()] = true
	}
	return words
}()
