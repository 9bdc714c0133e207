package pkcs11

import (
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"chancery/keystore"
)

// A quirks profile is what is particular to a vendor's tokens, as data. The zero
// value is the strict one, which unknown vendors get.
type quirks struct {
	vendor string // for messages

	// What the token or its module must say, exactly or by how it begins; the
	// first profile that fits is taken.
	manufacturer, model, library string

	source string // where the facts come from
	gives  string // what is given up by what is relaxed

	// unusable is why Chancery can keep no keys there. Nobody logs in then.
	unusable string

	// lacks are the algorithms that the token has mechanisms for and cannot do as
	// Chancery needs them.
	lacks []keystore.Algorithm
	// unknown are the attributes of a private key that the token does not know.
	// They are left out of templates, and a key that has none is not refused for
	// it; one that has it must have it as required. None of those that keep a key
	// inside may be here.
	unknown []uint
	// told are the attributes of a private key that the token ought to set itself and
	// sets as the template tells it.
	told []uint
	// public are the attributes of a public half that the token has its own mind
	// about. They are left out of templates and not looked at: they say what the
	// token does with a key that anybody may have.
	public []uint
	// hidden is that CKA_PRIVATE is true of public halves as well.
	hidden bool
	// bare is that a pair is made from our templates alone: crypto11 would put back
	// what is left out of them.
	bare bool

	// copyable is for which purpose a private key may be copied to a session
	// object, to sign with the copy, which stays sensitive and not extractable.
	// CKA_COPYABLE cannot go back to true, so it is decided when the key is made.
	copyable keystore.Purpose

	// readWrite is that the token opens no read-only sessions.
	readWrite bool
	// sessions is how many sessions the device has, for everybody together; 0: not said.
	sessions int
	// linger is how long the device keeps a session whose process is gone.
	linger time.Duration
	// local is that nothing of a process that has gone is left in the device.
	local bool
	// torn are what C_Login answers while another process logs in, for which the
	// token's object is emptied and written anew. They say nothing of the PIN.
	torn []pkcs11.Error
	// throttled are the codes by which C_GetAttributeValue says "later".
	throttled []pkcs11.Error
}

var profiles = []quirks{
	{
		vendor: "SoftHSM", manufacturer: "SoftHSM project",
		source: "measured with 2.6.1: it reopens and locks two files for each signature by a token object",
		local:  true, // it has no device
		torn:   []pkcs11.Error{pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_USER_PIN_NOT_INITIALIZED},
		// Copies are made for JWT keys only: CA and audit keys sign seldom.
		copyable: keystore.PurposeJWT,
	},
	{
		vendor: "openCryptoki", manufacturer: "IBM", model: "IBM SoftTok",
		source:  "measured with 3.8.1: CKR_ATTRIBUTE_TYPE_INVALID in a template and from C_GetAttributeValue",
		gives:   "who is logged in can copy a key to a session object, which stays sensitive and not extractable",
		unknown: []uint{pkcs11.CKA_COPYABLE},
	},
	{
		vendor: "NSS", manufacturer: "Mozilla Foundation", model: "NSS 3",
		source: "measured with 3.87.1: CKA_COPYABLE is CKR_GENERAL_ERROR in a template and CKR_ATTRIBUTE_TYPE_INVALID from C_GetAttributeValue; " +
			"CKA_LOCAL of a key that it generated is false, unless the template says true",
		gives:   "who is logged in can copy a key to a session object; CKA_LOCAL is the word of who made the key",
		unknown: []uint{pkcs11.CKA_COPYABLE},
		told:    []uint{pkcs11.CKA_LOCAL},
	},
	{
		// Its tokens show the maker of the TPM as theirs.
		vendor: "tpm2-pkcs11", library: "tpm2-software.github.io",
		source: "measured with 1.9.0 and swtpm 0.7.1, and its src/lib/{tpm,attrs}.c: one bit of the TPM stands for CKA_SIGN and CKA_ENCRYPT, one for CKA_DECRYPT and CKA_VERIFY, " +
			"so that CKA_ENCRYPT false of the public half takes CKA_SIGN from the private one; without CKA_DECRYPT C_Sign fails with CKM_RSA_PKCS (CKR_GENERAL_ERROR) and CKM_RSA_PKCS_PSS (CKR_MECHANISM_INVALID); " +
			"CKA_EC_POINT of P-521 lacks leading zeros; C_SetAttributeValue changes a key whose CKA_MODIFIABLE is false",
		gives: "who is logged in can change a key's label, and with it what it is for",
		lacks: []keystore.Algorithm{keystore.ES512, keystore.RS256, keystore.RS384, keystore.RS512,
			keystore.PS256, keystore.PS384, keystore.PS512},
		public: []uint{pkcs11.CKA_VERIFY, pkcs11.CKA_ENCRYPT},
		bare:   true,
	},
	{
		vendor: "AWS CloudHSM", manufacturer: "Marvell Semiconductors, Inc.",
		source: "AWS CloudHSM User Guide: attributes table for Client SDK 5 (CKA_PRIVATE only true, no CKA_SIGN_RECOVER, no CKA_COPYABLE), " +
			"its error codes, and known issues of the PKCS #11 library (no read-only sessions: CKR_FUNCTION_FAILED; CKR_DEVICE_ERROR from C_GetAttributeValue when throttled); not tried",
		gives:     "who is logged in may be able to copy a key inside the HSM",
		unknown:   []uint{pkcs11.CKA_SIGN_RECOVER, pkcs11.CKA_COPYABLE},
		hidden:    true,
		readWrite: true,
		throttled: []pkcs11.Error{pkcs11.CKR_DEVICE_ERROR},
	},
	{
		vendor: "YubiHSM 2", manufacturer: "Yubico (www.yubico.com)", model: "YubiHSM",
		source:   "docs.yubico.com, Concept: Session (16, gone after 30 s without use); yubihsm-shell pkcs11/util_pkcs11.c takes our templates as they are; not tried",
		sessions: 16,
		linger:   30 * time.Second,
	},
	{
		vendor: "YubiKey PIV", manufacturer: "Yubico (www.yubico.com)", library: "PKCS#11 PIV Library",
		source:   "developers.yubico.com, yubico-piv-tool: keys are in the slots of PIV, and generating one needs the management key; letsencrypt/pkcs11key v4: a login before each signature",
		unusable: "its keys are in a few fixed slots, are made with the management key, and some want the PIN for each signature",
	},
	{
		vendor: "Google Cloud KMS", manufacturer: "Google", model: "Cloud KMS Token",
		source:   "GoogleCloudPlatform/kms-integrations, kmsp11/docs/user_guide.md and kmsp11/token.cc",
		unusable: "it chooses CKA_ID itself and generates from a label and an algorithm of its own only",
	},
}

// A libraryInfo is what a module says of itself.
type libraryInfo struct{ manufacturer, description string }

// quirksOf returns the profile of the token's vendor.
func quirksOf(t tokenInfo, l libraryInfo) quirks {
	for _, q := range profiles {
		if strings.HasPrefix(t.Manufacturer, q.manufacturer) && strings.HasPrefix(t.Model, q.model) &&
			(strings.HasPrefix(l.manufacturer, q.library) || strings.HasPrefix(l.description, q.library)) {
			return q
		}
	}
	return quirks{}
}

// How many workers of a device that says nothing of itself may be started, and
// in which time.
const (
	defaultStarts = 60
	defaultWithin = time.Minute

	// sessionsPerWorker is what a worker has open at most: the clerk's, who has
	// crypto11's as well.
	sessionsPerWorker = 4
)

// starts returns how many workers may be started in which time, so that the
// sessions of those that were killed are gone before the device has none left; 0
// means as many as one likes.
func (q quirks) starts() (int, time.Duration) {
	switch {
	case q.local:
		return 0, 0
	case q.sessions > 0 && q.linger > 0:
		return max(q.sessions/sessionsPerWorker, 1), q.linger
	}
	return defaultStarts, defaultWithin
}
