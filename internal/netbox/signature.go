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

// Key is one secret that a webhook may sign with.
type Key struct {
	// Name tells keys apart in a status: the entry of the Secret, "secret" for example. It is not confidential.
	Name string
	// Value is the webhook's secret as typed into NetBox, in UTF-8.
	Value []byte
}

// Sign returns what NetBox puts into SignatureHeader for body: the lowercase hex digits, 128 of them, of its HMAC-SHA512,
// without a prefix (generate_signature in netbox/extras/webhooks.py).
func Sign(key, body []byte) string {
	mac := hmac.New(sha512.New, key)
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// Verify returns the name of the key that made signature over body, and whether there is one. It takes the same time whichever
// key fits, and however much of a wrong signature is right. Any other encoding of the right signature is wrong.
func Verify(keys []Key, body []byte, signature string) (name string, ok bool) {
	for _, key := range keys {
		if subtle.ConstantTimeCompare([]byte(Sign(key.Value, body)), []byte(signature)) == 1 {
			name, ok = key.Name, true
		}
	}
	return name, ok
}
