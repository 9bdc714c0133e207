/* Orders about objects: what is found, what it says of itself, what it is. */
#include <stdlib.h>
#include <string.h>

#include "faultmodule.h"

bool object_read(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, struct object *into)
{
	CK_ATTRIBUTE t[] = {
		{ CKA_CLASS, &into->class, sizeof into->class },
		{ CKA_ID, into->id, sizeof into->id },
	};
	CK_RV rv = real->C_GetAttributeValue(s, o, t, 2);
	if (rv != CKR_OK && rv != CKR_ATTRIBUTE_TYPE_INVALID && rv != CKR_ATTRIBUTE_SENSITIVE &&
		rv != CKR_BUFFER_TOO_SMALL)
		return false;
	if (t[0].ulValueLen != sizeof into->class)
		into->class = ANY_CLASS;
	into->n = t[1].ulValueLen <= sizeof into->id ? t[1].ulValueLen : 0;
	return true;
}

bool object_has_id(const struct object *o, struct bytes id)
{
	return o->n == id.n && memcmp(o->id, id.data, id.n) == 0;
}

static bool is_meant(const struct order *by, const struct object *o)
{
	return (by->class == ANY_CLASS || by->class == o->class) && (by->all || object_has_id(o, by->id));
}

/* find_key finds an object on the session's token, by a session of its own:
 * the caller's may be in the middle of a search. */
static bool find_key(const struct call *c, CK_OBJECT_CLASS class, struct bytes id, CK_OBJECT_HANDLE *found)
{
	CK_SESSION_HANDLE s;
	if (!c->has_slot || real->C_OpenSession(c->slot, CKF_SERIAL_SESSION, NULL, NULL, &s) != CKR_OK)
		return false;
	CK_ATTRIBUTE t[] = {
		{ CKA_CLASS, &class, sizeof class },
		{ CKA_ID, (void *)id.data, id.n },
	};
	CK_ULONG n = 0;
	if (real->C_FindObjectsInit(s, t, 2) == CKR_OK) {
		if (real->C_FindObjects(s, found, 1, &n) != CKR_OK)
			n = 0;
		real->C_FindObjectsFinal(s);
	}
	real->C_CloseSession(s);
	return n == 1;
}

/* need_key is find_key for an order that cannot be obeyed without. */
static CK_RV need_key(const struct call *c, const struct order *by, CK_OBJECT_CLASS class, CK_OBJECT_HANDLE *found)
{
	if (find_key(c, class, by->other, found))
		return CKR_OK;
	complain("line %u: there is no such other key", by->line);
	return CKR_GENERAL_ERROR;
}

CK_RV our_C_SignInit(struct call *c, CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key)
{
	CK_OBJECT_HANDLE used = key;
	struct object o;
	if (orders_have(c->orders, REMAP) && object_read(s, key, &o)) {
		for (size_t i = 0; i < c->orders->n && used == key; i++) {
			const struct order *by = &c->orders->list[i];
			if (by->what != REMAP || !object_has_id(&o, by->id) || !call_scope(c, by))
				continue;
			call_mark(c);
			CK_RV rv = need_key(c, by, CKO_PRIVATE_KEY, &used);
			if (rv != CKR_OK)
				return rv;
		}
	}
	CK_RV rv = real->C_SignInit(s, m, used);
	if (rv == CKR_OK)
		sessions_signing(s, key);
	return rv;
}

static bool is_hidden(const struct call *c, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE handle)
{
	struct object o;
	if (!object_read(s, handle, &o))
		return false;
	for (size_t i = 0; i < c->orders->n; i++) {
		const struct order *by = &c->orders->list[i];
		if (by->what == HIDE_OBJECT && is_meant(by, &o) && call_scope(c, by))
			return true;
	}
	return false;
}

CK_RV our_C_FindObjects(struct call *c, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE *found, CK_ULONG max, CK_ULONG *n)
{
	for (;;) {
		CK_RV rv = real->C_FindObjects(s, found, max, n);
		if (rv != CKR_OK || !orders_have(c->orders, HIDE_OBJECT) || *n == 0)
			return rv;
		CK_ULONG kept = 0;
		for (CK_ULONG i = 0; i < *n; i++) {
			if (is_hidden(c, s, found[i]))
				call_mark(c);
			else
				found[kept++] = found[i];
		}
		*n = kept;
		if (kept > 0)
			return CKR_OK;
		/* None at all would be the end of the search. */
	}
}

static CK_RV give(CK_ATTRIBUTE *a, const CK_BYTE *value, size_t n)
{
	if (!a->pValue) {
		a->ulValueLen = n;
		return CKR_OK;
	}
	if (a->ulValueLen < n) {
		a->ulValueLen = CK_UNAVAILABLE_INFORMATION;
		return CKR_BUFFER_TOO_SMALL;
	}
	memcpy(a->pValue, value, n);
	a->ulValueLen = n;
	return CKR_OK;
}

#define MAX_POINT 1024

/* respell gives a point raw or in an ASN.1 string. What looks like one of the
 * strings, with nothing after it, is taken for that. */
static CK_RV respell(enum answer as, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a)
{
	CK_BYTE held[MAX_POINT], spelled[MAX_POINT + 8], head[8];
	CK_ATTRIBUTE t = { a->type, held, sizeof held };
	CK_RV rv = real->C_GetAttributeValue(s, o, &t, 1);
	if (rv != CKR_OK) {
		a->ulValueLen = CK_UNAVAILABLE_INFORMATION;
		return rv;
	}
	const CK_BYTE *point = held;
	size_t n = t.ulValueLen;
	for (size_t h = 2; h <= 4 && h < n; h++) {
		bool octets = (size_t)(der_put(head, 0x04, n - h) - head) == h && memcmp(held, head, h) == 0;
		bool bits = (size_t)(der_put(head, 0x03, n - h) - head) == h && memcmp(held, head, h) == 0 && held[h] == 0;
		if (octets || bits) {
			point = held + h + bits;
			n -= h + bits;
			break;
		}
	}
	CK_BYTE *to = spelled;
	if (as == OCTET_STRING)
		to = der_put(to, 0x04, n);
	if (as == BIT_STRING) {
		to = der_put(to, 0x03, n + 1);
		*to++ = 0;
	}
	memcpy(to, point, n);
	return give(a, spelled, (size_t)(to - spelled) + n);
}

/* is_public_value reports whether an attribute is part of the public key. */
static bool is_public_value(CK_ATTRIBUTE_TYPE type)
{
	switch (type) {
	case CKA_MODULUS: case CKA_MODULUS_BITS: case CKA_PUBLIC_EXPONENT: case CKA_PUBLIC_KEY_INFO:
	case CKA_EC_PARAMS: case CKA_EC_POINT: case CKA_VALUE: case CKA_KEY_TYPE:
		return true;
	}
	return false;
}

/* order_of returns the first order about an attribute of an object, or NULL. */
static const struct order *order_of(const struct call *c, const struct object *o, CK_ATTRIBUTE_TYPE type)
{
	for (size_t i = 0; i < c->orders->n; i++) {
		const struct order *by = &c->orders->list[i];
		if (by->what == ATTRIBUTE && by->attribute == type && is_meant(by, o) && call_scope(c, by))
			return by;
		if (by->what == PUBKEY && o->class == CKO_PUBLIC_KEY && is_public_value(type) &&
			object_has_id(o, by->id) && call_scope(c, by))
			return by;
	}
	return NULL;
}

/* obey answers for one attribute as it is ordered. */
static CK_RV obey(const struct call *c, const struct order *by, CK_OBJECT_HANDLE handle, CK_ATTRIBUTE *a)
{
	if (by->what == PUBKEY) {
		CK_RV rv = need_key(c, by, CKO_PUBLIC_KEY, &handle);
		return rv == CKR_OK ? real->C_GetAttributeValue(c->session, handle, a, 1) : rv;
	}
	switch (by->answer) {
	case VALUE:
		return give(a, by->value.data, by->value.n);
	case INVALID:
		a->ulValueLen = CK_UNAVAILABLE_INFORMATION;
		return CKR_ATTRIBUTE_TYPE_INVALID;
	case SENSITIVE:
		a->ulValueLen = CK_UNAVAILABLE_INFORMATION;
		return CKR_ATTRIBUTE_SENSITIVE;
	default:
		return respell(by->answer, c->session, handle, a);
	}
}

CK_RV our_C_GetAttributeValue(struct call *c, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *t, CK_ULONG n)
{
	bool any = false;
	struct object is;
	if (t && (orders_have(c->orders, ATTRIBUTE) || orders_have(c->orders, PUBKEY)) && object_read(s, o, &is)) {
		for (CK_ULONG i = 0; i < n && !any; i++)
			any = order_of(c, &is, t[i].type);
	}
	if (!any)
		return real->C_GetAttributeValue(s, o, t, n);
	call_mark(c);
	CK_RV first = CKR_OK; /* that was wrong */
	for (CK_ULONG i = 0; i < n; i++) {
		const struct order *by = order_of(c, &is, t[i].type);
		CK_RV rv = by ? obey(c, by, o, &t[i]) : real->C_GetAttributeValue(s, o, &t[i], 1);
		if (first == CKR_OK)
			first = rv;
	}
	return first;
}
