/* What becomes of a call under the orders that stand. */
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "faultmodule.h"

void call_mark(struct call *c)
{
	if (!c->ordered)
		counts_ordered(c->fn);
	c->ordered = true;
}

bool call_scope(const struct call *c, const struct order *o)
{
	return !o->token.data || (c->has_slot && slot_is(c->slot, o->token));
}

/* concerns reports whether o is about calls like c, whichever of them. */
static bool concerns(const struct order *o, const struct call *c)
{
	if (o->what != ON_CALL || o->size != c->size)
		return false;
	if (o->fn == ANY_FUNCTION ? c->fn == FN_C_GetFunctionList : o->fn != (int)c->fn)
		return false;
	if ((o->action == DROP || o->action == LOGOUT) && !c->has_session)
		return false;
	if (o->idle && !(c->has_session && c->idle > o->idle))
		return false;
	if (o->mode_mask && !(c->has_mode && (c->flags & o->mode_mask) == o->mode))
		return false;
	if (!call_scope(c, o))
		return false;
	struct object key;
	return !o->key.data ||
		(c->has_object && object_read(c->session, c->object, &key) && object_has_id(&key, o->key));
}

/* is_turn counts the call and reports whether it is one of those that o means. */
static bool is_turn(struct order *o)
{
	CK_ULONG n = atomic_fetch_add(&o->seen, 1) + 1;
	if (n < o->from || (o->to && n > o->to) || (o->every && n % o->every))
		return false;
	return !o->times || atomic_fetch_add(o->used, 1) < o->times;
}

static void wait_ms(CK_ULONG ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(ms / 1000);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
		; /* a signal */
}

static void crash(void)
{
	volatile char *p = mmap(NULL, 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*p = 1;
	_exit(255);
}

/* act obeys c's order and reports whether that decides what the call returns. */
static bool act(struct call *c, CK_RV *rv)
{
	switch (c->order->action) {
	case RETURN:
		*rv = c->order->number;
		return true;
	case HANG:
		for (;;)
			pause();
	case DELAY:
		wait_ms(c->order->number);
		return false;
	case SEGV:
		crash();
		return false;
	case ABORT:
		abort();
	case KILL:
		kill(getpid(), SIGKILL);
		for (;;)
			pause();
	case EXIT:
		_exit((int)c->order->number);
	case DROP:
		sessions_drop(c->slot);
		*rv = CKR_SESSION_HANDLE_INVALID;
		return true;
	case LOGOUT:
		real->C_Logout(c->session);
		return false;
	default:
		return false; /* a change of what it returns, in its time */
	}
}

/* refuse decides about a call on what is no longer there. */
static bool refuse(struct call *c, bool dead, CK_RV *rv)
{
	bool gone = c->has_slot && c->fn != FN_C_GetSlotInfo && slot_hidden(c->orders, c->slot);
	if (!gone && !dead)
		return false;
	call_mark(c);
	if (gone)
		sessions_drop(c->slot);
	if (c->fn == FN_C_CloseSession)
		our_C_CloseSession(c, c->session);
	else if (c->fn == FN_C_CloseAllSessions)
		our_C_CloseAllSessions(c, c->slot);
	if (!c->has_session)
		*rv = CKR_TOKEN_NOT_PRESENT;
	else
		*rv = gone ? CKR_DEVICE_REMOVED : CKR_SESSION_HANDLE_INVALID;
	return true;
}

/* locate finds out what c's session is, and reports whether it was dropped. */
static bool locate(struct call *c)
{
	struct session s;
	if (!c->has_session || !sessions_get(c->session, &s))
		return false;
	sessions_used(s.slot);
	c->has_slot = c->has_mode = true;
	c->slot = s.slot;
	c->flags = s.flags;
	c->idle = s.idle;
	if (c->signing) {
		c->has_object = true;
		c->object = s.signing;
	}
	return s.dead;
}

bool call_begin(struct call *c, CK_RV *rv)
{
	counts_call(c->fn, c->size);
	c->orders = control_hold();
	c->room = c->out_len ? *c->out_len : 0;
	bool dead = locate(c);
	if (!c->orders) {
		/* The list is given out all the same: some callers do not look
		 * whether they got one. */
		*rv = CKR_GENERAL_ERROR;
		return c->fn == FN_C_GetFunctionList;
	}
	if (refuse(c, dead, rv))
		return false;
	for (size_t i = 0; i < c->orders->n && !c->order; i++) {
		struct order *o = &c->orders->list[i];
		if (concerns(o, c) && is_turn(o))
			c->order = o;
	}
	if (!c->order)
		return true;
	call_mark(c);
	return c->order->after || !act(c, rv);
}

/* enlarge answers a question for the size so that what an order makes of the
 * bytes fits. */
static void enlarge(const struct call *c)
{
	for (size_t i = 0; i < c->orders->n; i++) {
		const struct order *o = &c->orders->list[i];
		if (o->what != ON_CALL || o->action < BYTES || o->fn != (int)c->fn || !call_scope(c, o))
			continue;
		CK_ULONG needed = bytes_needed(o, *c->out_len);
		if (needed > *c->out_len)
			*c->out_len = needed;
	}
}

CK_RV call_done(struct call *c, CK_RV rv)
{
	if (c->orders && c->size && c->out_len && rv == CKR_OK)
		enlarge(c);
	if (!c->order)
		return rv;
	if (c->order->after)
		act(c, &rv);
	else if (c->order->action >= CORRUPT && rv == CKR_OK && c->out && c->out_len)
		rv = bytes_change(c->order, c->out, c->out_len, c->room);
	return rv;
}

void call_end(struct call *c)
{
	if (c->has_session && c->has_slot)
		sessions_used(c->slot);
	control_release(c->orders);
}
