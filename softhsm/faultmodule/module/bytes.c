/* Changes of the bytes that a call returns. */
#include <string.h>

#include "faultmodule.h"

/* How many bytes DER may add to r || s: three headers of at most three bytes,
 * and a zero byte before each integer. */
#define DER_MORE 11
#define MAX_DER 1024

CK_ULONG bytes_needed(const struct order *o, CK_ULONG n)
{
	switch (o->action) {
	case BYTES:
		return o->value.n > n ? o->value.n : n;
	case DER:
		return n + DER_MORE;
	case ZEROS:
		return n + o->number;
	default:
		return n;
	}
}

CK_BYTE *der_put(CK_BYTE *to, CK_BYTE tag, size_t n)
{
	*to++ = tag;
	if (n > 0xff) {
		*to++ = 0x82;
		*to++ = (CK_BYTE)(n >> 8);
	} else if (n > 0x7f) {
		*to++ = 0x81;
	}
	*to++ = (CK_BYTE)n;
	return to;
}

/* integer writes the unsigned number of n bytes at p. */
static CK_BYTE *integer(CK_BYTE *to, const CK_BYTE *p, size_t n)
{
	while (n > 1 && *p == 0) {
		p++;
		n--;
	}
	bool high = *p & 0x80;
	to = der_put(to, 0x02, n + high);
	if (high)
		*to++ = 0;
	memcpy(to, p, n);
	return to + n;
}

/* der writes r || s as the SEQUENCE that X.509 has; RFC 3279 Section 2.2.3. */
static size_t der(CK_BYTE *to, const CK_BYTE *rs, size_t n)
{
	CK_BYTE both[MAX_DER];
	CK_BYTE *end = integer(integer(both, rs, n / 2), rs + n / 2, n / 2);
	size_t len = (size_t)(end - both);
	CK_BYTE *at = der_put(to, 0x30, len);
	memcpy(at, both, len);
	return (size_t)(at - to) + len;
}

static CK_RV replace(CK_BYTE *p, CK_ULONG *n, CK_ULONG room, const CK_BYTE *by, size_t len)
{
	*n = len;
	if (len > room)
		return CKR_BUFFER_TOO_SMALL;
	memmove(p, by, len);
	return CKR_OK;
}

CK_RV bytes_change(const struct order *o, CK_BYTE *p, CK_ULONG *n, CK_ULONG room)
{
	CK_BYTE buffer[MAX_DER + DER_MORE];
	switch (o->action) {
	case CORRUPT:
		if (*n)
			p[*n - 1] ^= 1;
		return CKR_OK;
	case CUT:
		*n -= o->number < *n ? o->number : *n;
		return CKR_OK;
	case BYTES:
		return replace(p, n, room, o->value.data, o->value.n);
	case ZEROS:
		if (*n + o->number > room)
			return replace(p, n, room, NULL, *n + o->number);
		memmove(p + o->number, p, *n);
		memset(p, 0, o->number);
		*n += o->number;
		return CKR_OK;
	case DER:
		if (*n == 0 || *n % 2 || *n > MAX_DER - DER_MORE) {
			complain("line %u: %lu bytes are no r and s", o->line, *n);
			return CKR_GENERAL_ERROR;
		}
		return replace(p, n, room, buffer, der(buffer, p, *n));
	default:
		return CKR_OK;
	}
}
