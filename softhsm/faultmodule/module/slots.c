/* Orders about slots, tokens and how many sessions they take. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "faultmodule.h"

/* is_called compares a field that is padded with spaces or zero bytes. */
static bool is_called(const CK_UTF8CHAR *field, size_t n, struct bytes name)
{
	while (n > 0 && (field[n - 1] == ' ' || field[n - 1] == 0))
		n--;
	return n == name.n && memcmp(field, name.data, n) == 0;
}

static bool token_is(const CK_TOKEN_INFO *info, struct bytes token)
{
	return is_called(info->label, sizeof info->label, token) ||
		is_called(info->serialNumber, sizeof info->serialNumber, token);
}

bool slot_is(CK_SLOT_ID slot, struct bytes token)
{
	CK_TOKEN_INFO info;
	return real->C_GetTokenInfo(slot, &info) == CKR_OK && token_is(&info, token);
}

bool slot_hidden(const struct orders *o, CK_SLOT_ID slot)
{
	CK_TOKEN_INFO info;
	if (!orders_have(o, HIDE_TOKEN) || real->C_GetTokenInfo(slot, &info) != CKR_OK)
		return false;
	for (size_t i = 0; i < o->n; i++) {
		if (o->list[i].what == HIDE_TOKEN && token_is(&info, o->list[i].token))
			return true;
	}
	return false;
}

struct list {
	CK_SLOT_ID *slots; /* NULL: there is none */
	CK_ULONG n;
};

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER; /* guards frozen */
static struct list frozen[2];                          /* of all slots, of those with a token */

static void thaw(void)
{
	pthread_mutex_lock(&mu);
	for (int i = 0; i < 2; i++) {
		free(frozen[i].slots);
		frozen[i].slots = NULL;
	}
	pthread_mutex_unlock(&mu);
}

/* all asks the module for the whole list. */
static CK_RV all(CK_BBOOL present, struct list *into)
{
	CK_RV rv = CKR_BUFFER_TOO_SMALL;
	for (int tries = 0; tries < 8 && rv == CKR_BUFFER_TOO_SMALL; tries++) {
		if ((rv = real->C_GetSlotList(present, NULL, &into->n)) != CKR_OK)
			return rv;
		if (!(into->slots = calloc(into->n + 1, sizeof *into->slots)))
			return CKR_HOST_MEMORY;
		if ((rv = real->C_GetSlotList(present, into->slots, &into->n)) != CKR_OK) {
			free(into->slots); /* it has grown meanwhile, or worse */
			into->slots = NULL;
		}
	}
	return rv;
}

/* freeze exchanges l for the list that was frozen first. */
static CK_RV freeze(struct list *l, struct list *first)
{
	CK_RV rv = CKR_OK;
	pthread_mutex_lock(&mu);
	if (!first->slots) {
		*first = *l;
		l->slots = NULL;
	}
	free(l->slots);
	if ((l->slots = calloc(first->n + 1, sizeof *l->slots)))
		memcpy(l->slots, first->slots, (l->n = first->n) * sizeof *l->slots);
	else
		rv = CKR_HOST_MEMORY;
	pthread_mutex_unlock(&mu);
	return rv;
}

static CK_RV answer(const struct list *l, CK_SLOT_ID *slots, CK_ULONG *n)
{
	CK_ULONG room = *n;
	*n = l->n;
	if (!slots)
		return CKR_OK;
	if (room < l->n)
		return CKR_BUFFER_TOO_SMALL;
	memcpy(slots, l->slots, l->n * sizeof *slots);
	return CKR_OK;
}

CK_RV our_C_GetSlotList(struct call *c, CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *n)
{
	bool freezing = orders_have(c->orders, FREEZE_SLOTS);
	if (!freezing)
		thaw();
	if (!n || (!freezing && !orders_have(c->orders, HIDE_TOKEN)))
		return real->C_GetSlotList(present, slots, n);
	struct list l = { NULL, 0 };
	CK_RV rv = all(present, &l);
	if (rv != CKR_OK)
		return rv;
	CK_ULONG kept = 0;
	for (CK_ULONG i = 0; i < l.n; i++) {
		if (present && slot_hidden(c->orders, l.slots[i]))
			call_mark(c);
		else
			l.slots[kept++] = l.slots[i];
	}
	l.n = kept;
	if (freezing) {
		call_mark(c);
		rv = freeze(&l, &frozen[present ? 1 : 0]);
	}
	if (rv == CKR_OK)
		rv = answer(&l, slots, n);
	free(l.slots);
	return rv;
}

CK_RV our_C_GetSlotInfo(struct call *c, CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
	CK_RV rv = real->C_GetSlotInfo(slot, info);
	if (rv == CKR_OK && slot_hidden(c->orders, slot)) {
		call_mark(c);
		info->flags &= ~CKF_TOKEN_PRESENT;
	}
	return rv;
}

CK_RV our_C_GetTokenInfo(struct call *c, CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
	CK_RV rv = real->C_GetTokenInfo(slot, info);
	for (size_t i = 0; rv == CKR_OK && i < c->orders->n; i++) {
		const struct order *o = &c->orders->list[i];
		if (o->what == FLAGS && token_is(info, o->token)) {
			call_mark(c);
			info->flags = (info->flags & ~o->clear) | o->set;
		}
	}
	return rv;
}

CK_RV our_C_OpenSession(struct call *c, CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify,
	CK_SESSION_HANDLE *session)
{
	CK_ULONG max = ~0UL;
	bool alone = false;
	for (size_t i = 0; i < c->orders->n; i++) {
		const struct order *o = &c->orders->list[i];
		if (o->what == SESSIONS && call_scope(c, o)) {
			max = o->number;
			alone = o->token.data;
			break;
		}
	}
	if (!sessions_reserve(slot, max, alone)) {
		call_mark(c);
		return CKR_SESSION_COUNT;
	}
	CK_RV rv = real->C_OpenSession(slot, flags, application, notify, session);
	sessions_opened(slot, rv, rv == CKR_OK && session ? *session : 0, flags);
	return rv;
}

CK_RV our_C_CloseSession(struct call *c, CK_SESSION_HANDLE s)
{
	(void)c;
	CK_RV rv = real->C_CloseSession(s);
	if (rv == CKR_OK || rv == CKR_SESSION_HANDLE_INVALID)
		sessions_closed(s);
	return rv;
}

CK_RV our_C_CloseAllSessions(struct call *c, CK_SLOT_ID slot)
{
	(void)c;
	CK_RV rv = real->C_CloseAllSessions(slot);
	if (rv == CKR_OK)
		sessions_closed_all(&slot);
	return rv;
}

CK_RV our_C_Finalize(struct call *c, void *reserved)
{
	(void)c;
	CK_RV rv = real->C_Finalize(reserved);
	if (rv == CKR_OK)
		sessions_closed_all(NULL);
	return rv;
}
