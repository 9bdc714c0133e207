/* What the files of the module share. The language of orders is described in
 * README.md beside this directory.
 */
#ifndef FAULTMODULE_H
#define FAULTMODULE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cryptoki.h"
#include "functions.h"

/* C_Initialize is FN_C_Initialize, and so on; FN_COUNT is how many there are. */
#define X(name, via, facts, params, args) FN_##name,
enum function { FUNCTIONS(X) FN_COUNT };
#undef X

#define X(name, via, facts, params, args) CK_RV(*name) params;
struct CK_FUNCTION_LIST {
	CK_VERSION version;
	FUNCTIONS(X)
};
#undef X

extern CK_FUNCTION_LIST *real; /* the module that is wrapped */

/* --- names.c: what orders may call things by --- */

enum { /* what orders can go by, for each function; see functions.h */
	HAS_SESSION = 1,
	HAS_SLOT = 2,
	HAS_MODE = 4,
	HAS_OBJECT = 8,
	HAS_SIZE = 16, /* it is asked how much it would return */
	HAS_BYTES = 32,
};

struct function_info {
	const char *name;
	int facts;
};

extern const struct function_info function_info[FN_COUNT];

/* Each finds the number that a name stands for. */
bool name_function(const char *name, int *fn);
bool name_code(const char *name, CK_RV *code);
bool name_flag(const char *name, CK_FLAGS *flag);
bool name_attribute(const char *name, CK_ATTRIBUTE_TYPE *type);

/* --- orders.c: the language --- */

enum what {
	ON_CALL, HIDE_OBJECT, HIDE_TOKEN, FREEZE_SLOTS, REMAP, PUBKEY, ATTRIBUTE, FLAGS, SESSIONS,
};

enum action {
	RETURN, HANG, DELAY, SEGV, ABORT, KILL, EXIT, /* these may come after the call */
	DROP, LOGOUT,
	CORRUPT, BYTES, DER, CUT, ZEROS, /* of what the call returns */
};

enum answer { VALUE, INVALID, SENSITIVE, RAW, OCTET_STRING, BIT_STRING };

#define ANY_FUNCTION (-1)
#define ANY_CLASS CK_UNAVAILABLE_INFORMATION

struct bytes {
	const CK_BYTE *data; /* NULL: not said, or any */
	size_t n;
};

/* An order. Only seen and *used change. */
struct order {
	unsigned line;
	enum what what;

	int fn; /* ON_CALL, from here on */
	bool size;
	enum action action;
	bool after;
	CK_ULONG number; /* a code, milliseconds, a status, a length; of SESSIONS: how many */
	struct bytes value;

	struct bytes token, key; /* qualifiers; 0 or NULL: not said */
	CK_FLAGS mode_mask, mode;
	CK_ULONG idle, from, to, every, times;

	CK_OBJECT_CLASS class; /* of what is hidden or answered for */
	bool all;              /* whatever its CKA_ID */
	struct bytes id, other;
	CK_ATTRIBUTE_TYPE attribute;
	enum answer answer;
	CK_FLAGS set, clear;

	atomic_ulong seen;      /* calls in this process that could have been the n-th */
	_Atomic uint64_t *used; /* how often it was obeyed, in all processes */
};

struct orders {
	atomic_int holders;
	unsigned kinds; /* bit 1 << what for each what there is */
	size_t n;
	struct order *list;
	char *text; /* what the bytes point into */
};

#define MAX_FILE 65536
#define MAX_ORDERS 256

/* orders_parse returns the orders in n bytes of text, or NULL and why not. */
struct orders *orders_parse(const char *text, size_t n, char *why, size_t why_size);
void orders_free(struct orders *o);

static inline bool orders_have(const struct orders *o, enum what w) { return o->kinds & 1u << w; }

/* --- control.c: the file they stand in --- */

void control_open(const char *path); /* NULL: no orders, ever */

/* control_hold returns the orders that stand now, for control_release, or NULL
 * if the control file is not understood. */
struct orders *control_hold(void);
void control_release(struct orders *o);

/* --- counts.c: what all processes count together --- */

bool counts_open(const char *path); /* NULL: this process alone */
void counts_call(enum function fn, bool size);
void counts_ordered(enum function fn);
/* counts_used returns the number of times that the order named key was obeyed,
 * or NULL if there is no more room. */
_Atomic uint64_t *counts_used(uint64_t key);

/* --- sessions.c: which sessions there are --- */

struct session {
	CK_SLOT_ID slot;
	CK_FLAGS flags;
	CK_OBJECT_HANDLE signing; /* of the last C_SignInit */
	bool dead;                /* dropped */
	uint64_t idle;            /* ms since its token was last used */
};

bool sessions_get(CK_SESSION_HANDLE h, struct session *s); /* false: not one of ours */
void sessions_used(CK_SLOT_ID slot);
/* sessions_reserve makes room for one more if fewer than max are open: of the
 * slot alone, or of all together. sessions_opened follows with the outcome. */
bool sessions_reserve(CK_SLOT_ID slot, CK_ULONG max, bool alone);
void sessions_opened(CK_SLOT_ID slot, CK_RV rv, CK_SESSION_HANDLE h, CK_FLAGS flags);
void sessions_closed(CK_SESSION_HANDLE h);
void sessions_closed_all(const CK_SLOT_ID *slot); /* NULL: of every slot */
void sessions_drop(CK_SLOT_ID slot);
void sessions_signing(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE key);

/* --- calls.c: what becomes of a call --- */

/* A call that is under way. */
struct call {
	enum function fn;
	bool has_session, has_slot, has_mode, has_object, signing, size;
	CK_SESSION_HANDLE session;
	CK_SLOT_ID slot; /* the session's, if has_session and it is known */
	CK_FLAGS flags;
	CK_OBJECT_HANDLE object;
	CK_BYTE *out;
	CK_ULONG *out_len, room;

	uint64_t idle;
	struct orders *orders;
	struct order *order; /* the one that it is under, or NULL */
	bool ordered;        /* an order has changed something */
};

/* call_begin reports whether the call goes on to the module; if not, *rv is
 * what it returns. call_done says what it returns when the module has returned
 * rv. call_end follows in both cases. */
bool call_begin(struct call *c, CK_RV *rv);
CK_RV call_done(struct call *c, CK_RV rv);
void call_end(struct call *c);

/* call_mark notes that an order has changed something. */
void call_mark(struct call *c);

/* call_scope reports whether o's token is the one that c is about. */
bool call_scope(const struct call *c, const struct order *o);

/* --- bytes.c: changes of what a call returns --- */

/* bytes_change obeys o on the *n bytes at p, which has room for room. */
CK_RV bytes_change(const struct order *o, CK_BYTE *p, CK_ULONG *n, CK_ULONG room);
/* bytes_needed returns the room that this takes if the module returns n bytes. */
CK_ULONG bytes_needed(const struct order *o, CK_ULONG n);
/* der_put writes a tag and a length below 65536, X.690 Section 8.1, and returns
 * where it ends: four bytes on at most. */
CK_BYTE *der_put(CK_BYTE *to, CK_BYTE tag, size_t n);

/* --- slots.c, objects.c: functions with orders of their own --- */

bool slot_is(CK_SLOT_ID slot, struct bytes token); /* token is its label or serial number */
bool slot_hidden(const struct orders *o, CK_SLOT_ID slot);

#define MAX_ID 256
struct object {
	CK_OBJECT_CLASS class;
	CK_BYTE id[MAX_ID];
	size_t n;
};

/* object_read reads what names an object; false: nothing does. */
bool object_read(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, struct object *into);
bool object_has_id(const struct object *o, struct bytes id);

CK_RV our_C_Finalize(struct call *c, void *reserved);
CK_RV our_C_GetFunctionList(struct call *c, CK_FUNCTION_LIST **list);
CK_RV our_C_GetSlotList(struct call *c, CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *n);
CK_RV our_C_GetSlotInfo(struct call *c, CK_SLOT_ID slot, CK_SLOT_INFO *info);
CK_RV our_C_GetTokenInfo(struct call *c, CK_SLOT_ID slot, CK_TOKEN_INFO *info);
CK_RV our_C_OpenSession(struct call *c, CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify,
	CK_SESSION_HANDLE *session);
CK_RV our_C_CloseSession(struct call *c, CK_SESSION_HANDLE s);
CK_RV our_C_CloseAllSessions(struct call *c, CK_SLOT_ID slot);
CK_RV our_C_GetAttributeValue(struct call *c, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *t, CK_ULONG n);
CK_RV our_C_FindObjects(struct call *c, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE *found, CK_ULONG max, CK_ULONG *n);
CK_RV our_C_SignInit(struct call *c, CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key);

/* complain writes one line to standard error. It is never given a secret. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
