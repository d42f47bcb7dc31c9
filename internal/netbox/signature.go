package netbox

import (
	"crypto/hmac"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
)

// SignatureHeader is the request header in which NetBox and Nautobot send the signature of the body. It is absent when the
// webhook has no secret.
const SignatureHeader = "X-Hook-Signature"

// Key is a secret that may sign webhooks.
type Key struct {
	// Name identifies the key in a status: the entry of the Secret, for example "secret". It is not confidential.
	Name string
	// Value is the webhook's secret as typed into NetBox, in UTF-8.
	Value []byte
}

// Sign returns NetBox's SignatureHeader for body: its HMAC-SHA512 as 128 lowercase hex digits, without a prefix (generate_signature in
// netbox/extras/webhooks.py).
func Sign(key, body []byte) string {
	mac := hmac.New(sha512.New, key)
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// Verify returns the name of the key that made signature over body, and whether there is one. It runs in constant time, independent of
// which key matches and of the matching prefix of a wrong signature. Other encodings of the right signature do not match.
func Verify(keys []Key, body []byte, signature string) (name string, ok bool) {
	for _, key := range keys {
		if subtle.ConstantTimeCompare([]byte(Sign(key.Value, body)), []byte(signature)) == 1 {
			name, ok = key.Name, true
		}
	}
	return name, ok
}
