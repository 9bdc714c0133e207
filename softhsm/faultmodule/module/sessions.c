/* Which sessions this process has open, and when each token was last used. */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "faultmodule.h"

#define BUCKETS 256

struct node {
	struct node *next;
	CK_SESSION_HANDLE handle;
	struct session s;
};

/* A slot that a session was ever opened on. */
struct place {
	struct place *next;
	CK_SLOT_ID slot;
	CK_ULONG open;     /* sessions, and those being opened */
	uint64_t last_use; /* ms of the monotonic clock */
};

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER; /* guards the rest */
static struct node *table[BUCKETS];
static struct place *places;
static CK_ULONG open_in_all;

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static struct node **find(CK_SESSION_HANDLE h)
{
	struct node **n = &table[h % BUCKETS];
	while (*n && (*n)->handle != h)
		n = &(*n)->next;
	return n;
}

/* place returns the slot's; NULL if there is no memory. */
static struct place *place(CK_SLOT_ID slot)
{
	struct place *p = places;
	while (p && p->slot != slot)
		p = p->next;
	if (p || !(p = calloc(1, sizeof *p)))
		return p;
	p->slot = slot;
	p->last_use = now();
	p->next = places;
	return places = p;
}

bool sessions_get(CK_SESSION_HANDLE h, struct session *s)
{
	pthread_mutex_lock(&mu);
	struct node *n = *find(h);
	if (n) {
		*s = n->s;
		struct place *p = place(s->slot);
		s->idle = p ? now() - p->last_use : 0;
	}
	pthread_mutex_unlock(&mu);
	return n;
}

void sessions_used(CK_SLOT_ID slot)
{
	pthread_mutex_lock(&mu);
	struct place *p = place(slot);
	if (p)
		p->last_use = now();
	pthread_mutex_unlock(&mu);
}

bool sessions_reserve(CK_SLOT_ID slot, CK_ULONG max, bool alone)
{
	pthread_mutex_lock(&mu);
	struct place *p = place(slot);
	bool room = p && (alone ? p->open : open_in_all) < max;
	if (room) {
		p->open++;
		open_in_all++;
	}
	pthread_mutex_unlock(&mu);
	return room;
}

static void close_at(struct node **n)
{
	struct node *gone = *n;
	struct place *p = place(gone->s.slot);
	*n = gone->next;
	if (p) {
		p->open--;
		open_in_all--;
	}
	free(gone);
}

void sessions_opened(CK_SLOT_ID slot, CK_RV rv, CK_SESSION_HANDLE h, CK_FLAGS flags)
{
	struct node *made = rv == CKR_OK ? calloc(1, sizeof *made) : NULL;
	pthread_mutex_lock(&mu);
	struct place *p = place(slot);
	while (made && *find(h))
		close_at(find(h)); /* the module has closed it by itself */
	if (made) {
		*made = (struct node){ table[h % BUCKETS], h, { .slot = slot, .flags = flags } };
		table[h % BUCKETS] = made;
	} else if (p) {
		p->open--;
		open_in_all--;
	}
	pthread_mutex_unlock(&mu);
}

void sessions_closed(CK_SESSION_HANDLE h)
{
	pthread_mutex_lock(&mu);
	struct node **n = find(h);
	if (*n)
		close_at(n);
	pthread_mutex_unlock(&mu);
}

void sessions_closed_all(const CK_SLOT_ID *slot)
{
	pthread_mutex_lock(&mu);
	for (int i = 0; i < BUCKETS; i++) {
		for (struct node **n = &table[i]; *n;) {
			if (!slot || (*n)->s.slot == *slot)
				close_at(n);
			else
				n = &(*n)->next;
		}
	}
	pthread_mutex_unlock(&mu);
}

void sessions_drop(CK_SLOT_ID slot)
{
	pthread_mutex_lock(&mu);
	for (int i = 0; i < BUCKETS; i++) {
		for (struct node *n = table[i]; n; n = n->next)
			n->s.dead = n->s.dead || n->s.slot == slot;
	}
	pthread_mutex_unlock(&mu);
}

void sessions_signing(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE key)
{
	pthread_mutex_lock(&mu);
	struct node *n = *find(h);
	if (n)
		n->s.signing = key;
	pthread_mutex_unlock(&mu);
}
