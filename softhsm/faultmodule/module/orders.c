/* The language of orders: one on a line, words apart by one space, one spelling
 * for each thing. A file with a mistake holds no orders at all.
 */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "faultmodule.h"

#define MAX_WORDS 16

/* A line that is being read. */
struct line {
	char *words[MAX_WORDS + 1]; /* the last is NULL */
	size_t n, next;
	unsigned number;
	char *why;
	size_t why_size;
};

/* wrong says what is wrong with a line, and is false. */
__attribute__((format(printf, 2, 3)))
static bool wrong(struct line *l, const char *format, ...)
{
	int n = snprintf(l->why, l->why_size, "line %u: ", l->number);
	va_list args;
	va_start(args, format);
	vsnprintf(l->why + n, l->why_size - (size_t)n, format, args);
	va_end(args);
	return false;
}

static const char *take(struct line *l)
{
	return l->next < l->n ? l->words[l->next++] : "";
}

static bool read_number(const char *word, CK_ULONG *number)
{
	bool hex = word[0] == '0' && word[1] == 'x';
	const char *digits = hex ? word + 2 : word;
	if (*digits == 0 || (!hex && digits[0] == '0' && digits[1] != 0))
		return false;
	for (const char *p = digits; *p; p++) {
		if (!(hex ? isxdigit((unsigned char)*p) : isdigit((unsigned char)*p)))
			return false;
	}
	errno = 0;
	*number = strtoul(digits, NULL, hex ? 16 : 10);
	return errno == 0;
}

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* read_hex turns a word of hexadecimal digits into the bytes it stands for, in
 * its own place. */
static bool read_hex(char *word, struct bytes *b)
{
	size_t n = strlen(word);
	if (n == 0 || n % 2)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (nibble(word[i]) < 0)
			return false;
	}
	for (size_t i = 0; i < n / 2; i++)
		word[i] = (char)(nibble(word[2 * i]) << 4 | nibble(word[2 * i + 1]));
	b->data = (CK_BYTE *)word;
	b->n = n / 2;
	return true;
}

/* read_token reads a label or serial number, with %20 for a space and so on. */
static bool read_token(char *word, struct bytes *b)
{
	char *to = word;
	b->data = (CK_BYTE *)word;
	for (char *p = word; *p; p++) {
		if (*p != '%') {
			*to++ = *p;
			continue;
		}
		if (nibble(p[1]) < 0 || nibble(p[2]) < 0)
			return false;
		*to++ = (char)(nibble(p[1]) << 4 | nibble(p[2]));
		p += 2;
	}
	b->n = (size_t)(to - word);
	return b->n > 0;
}

static bool number(struct line *l, const char *of, CK_ULONG *into)
{
	const char *word = take(l);
	return read_number(word, into) || wrong(l, "%s wants a number, not \"%.40s\"", of, word);
}

static bool id(struct line *l, struct bytes *into)
{
	char *word = (char *)take(l);
	if (read_hex(word, into) && into->n < MAX_ID)
		return true;
	return wrong(l, "a CKA_ID is hexadecimal, not \"%.40s\"", word);
}

static bool token(struct line *l, struct bytes *into)
{
	char *word = (char *)take(l);
	return read_token(word, into) || wrong(l, "a token is a label or serial number, not \"%.40s\"", word);
}

/* object reads which objects: "public ID", "private *", "object ID". */
static bool object(struct line *l, struct order *o)
{
	const char *word = take(l);
	if (strcmp(word, "public") == 0)
		o->class = CKO_PUBLIC_KEY;
	else if (strcmp(word, "private") == 0)
		o->class = CKO_PRIVATE_KEY;
	else if (strcmp(word, "object") == 0)
		o->class = ANY_CLASS;
	else
		return wrong(l, "want public, private or object, not \"%.40s\"", word);
	o->all = l->next < l->n && strcmp(l->words[l->next], "*") == 0;
	if (o->all) {
		l->next++;
		return true;
	}
	return id(l, &o->id);
}

static const struct {
	const char *name;
	enum action action;
	enum { NOTHING, CODE, NUMBER, HEX } takes;
	int needs; /* a fact of the function */
} actions[] = {
	{ "rv", RETURN, CODE, 0 },         { "hang", HANG, NOTHING, 0 },
	{ "delay", DELAY, NUMBER, 0 },     { "segv", SEGV, NOTHING, 0 },
	{ "abort", ABORT, NOTHING, 0 },    { "kill", KILL, NOTHING, 0 },
	{ "exit", EXIT, NUMBER, 0 },       { "drop", DROP, NOTHING, HAS_SESSION },
	{ "logout", LOGOUT, NOTHING, HAS_SESSION },
	{ "corrupt", CORRUPT, NOTHING, HAS_BYTES }, { "bytes", BYTES, HEX, HAS_BYTES },
	{ "der", DER, NOTHING, HAS_BYTES }, { "cut", CUT, NUMBER, HAS_BYTES },
	{ "zeros", ZEROS, NUMBER, HAS_BYTES },
};

/* facts returns what calls under o have in common. */
static int facts(const struct order *o)
{
	if (o->fn == ANY_FUNCTION)
		return HAS_SESSION | HAS_SLOT | HAS_OBJECT;
	return function_info[o->fn].facts;
}

static bool action(struct line *l, struct order *o)
{
	const char *word = take(l);
	if (strcmp(word, "after") == 0) {
		o->after = true;
		word = take(l);
	}
	size_t i = 0;
	while (i < sizeof actions / sizeof *actions && strcmp(actions[i].name, word))
		i++;
	if (i == sizeof actions / sizeof *actions)
		return wrong(l, "no action is called \"%.40s\"", word);
	o->action = actions[i].action;
	if (o->after && o->action > EXIT)
		return wrong(l, "\"after %s\" means nothing", word);
	if (actions[i].needs == HAS_BYTES && (o->size || o->fn == ANY_FUNCTION || !(facts(o) & HAS_BYTES)))
		return wrong(l, "\"%s\" is for a function that returns bytes", word);
	if (actions[i].needs == HAS_SESSION && !(facts(o) & HAS_SESSION))
		return wrong(l, "\"%s\" is for a function that is called on a session", word);
	switch (actions[i].takes) {
	case NOTHING:
		return true;
	case NUMBER:
		return number(l, word, &o->number) &&
			((o->number <= 1UL << 31 && (o->action < CUT || o->number <= MAX_ID)) || wrong(l, "%s: too many", word));
	case HEX:
		word = take(l);
		return read_hex((char *)word, &o->value) || wrong(l, "bytes wants hexadecimal, not \"%.40s\"", word);
	case CODE:
		word = take(l);
		return read_number(word, &o->number) || name_code(word, &o->number) ||
			wrong(l, "rv wants a code, not \"%.40s\"", word);
	}
	return false;
}

static bool call(struct line *l, struct order *o)
{
	char *word = l->words[0];
	char *colon = strchr(word, ':');
	o->what = ON_CALL;
	o->fn = ANY_FUNCTION;
	if (colon) {
		o->size = strcmp(colon, ":size") == 0;
		if (!o->size)
			return wrong(l, "\"%.40s\" is no kind of call", colon);
		*colon = 0;
	}
	if (strcmp(word, "*") && !name_function(word, &o->fn))
		return wrong(l, "no order or function is called \"%.40s\"", word);
	if (o->size && !(facts(o) & HAS_SIZE))
		return wrong(l, "%.40s is not asked for a size", word);
	return action(l, o);
}

static bool hide(struct line *l, struct order *o)
{
	if (l->n > 1 && strcmp(l->words[1], "token") == 0) {
		l->next++;
		o->what = HIDE_TOKEN;
		return token(l, &o->token);
	}
	o->what = HIDE_OBJECT;
	return object(l, o);
}

static bool freeze(struct line *l, struct order *o)
{
	o->what = FREEZE_SLOTS;
	return strcmp(take(l), "slots") == 0 || wrong(l, "only slots can be frozen");
}

static bool pair(struct line *l, struct order *o)
{
	o->what = strcmp(l->words[0], "remap") == 0 ? REMAP : PUBKEY;
	return id(l, &o->id) && id(l, &o->other);
}

static bool attribute(struct line *l, struct order *o)
{
	static CK_BYTE truth[2] = { 0, 1 };
	static const char *const answers[] = { "", "invalid", "sensitive", "raw", "octet-string", "bit-string" };
	o->what = ATTRIBUTE;
	if (!object(l, o))
		return false;
	const char *word = take(l);
	if (!read_number(word, &o->attribute) && !name_attribute(word, &o->attribute))
		return wrong(l, "no attribute is called \"%.40s\"", word);
	word = take(l);
	for (int i = INVALID; i <= BIT_STRING; i++) {
		if (strcmp(word, answers[i]) == 0) {
			o->answer = (enum answer)i;
			return true;
		}
	}
	o->answer = VALUE;
	if (strcmp(word, "true") == 0 || strcmp(word, "false") == 0) {
		o->value = (struct bytes){ &truth[word[0] == 't'], 1 };
		return true;
	}
	return read_hex((char *)word, &o->value) || wrong(l, "no value of an attribute is spelled \"%.40s\"", word);
}

static bool flags(struct line *l, struct order *o)
{
	o->what = FLAGS;
	if (!token(l, &o->token))
		return false;
	do {
		const char *word = take(l);
		CK_FLAGS f = 0;
		if ((word[0] != '+' && word[0] != '-') || !(read_number(word + 1, &f) || name_flag(word + 1, &f)))
			return wrong(l, "a flag is set by +FLAG and cleared by -FLAG, not by \"%.40s\"", word);
		*(word[0] == '+' ? &o->set : &o->clear) |= f;
	} while (l->next < l->n);
	return true;
}

static bool sessions(struct line *l, struct order *o)
{
	o->what = SESSIONS;
	return number(l, "sessions", &o->number);
}

static const struct {
	const char *name;
	bool (*read)(struct line *, struct order *);
} kinds[] = {
	{ "hide", hide },           { "freeze", freeze }, { "remap", pair },         { "pubkey", pair },
	{ "attribute", attribute }, { "flags", flags },   { "sessions", sessions },
};

/* qualifier reads NAME=VALUE. None may be said twice. */
static bool qualifier(struct line *l, struct order *o)
{
	char *word = (char *)take(l);
	char *value = strchr(word, '=');
	if (!value)
		return wrong(l, "\"%.40s\" is too much", word);
	*value++ = 0;
	int has = o->what == ON_CALL ? facts(o) : HAS_SESSION;
	bool named = strcmp(word, "token") == 0;
	if (named && !o->token.data && o->what != FREEZE_SLOTS && has & (HAS_SESSION | HAS_SLOT))
		return read_token(value, &o->token) || wrong(l, "token= wants a label or serial number");
	if (named || o->what != ON_CALL)
		return wrong(l, "%.40s= does not go with that, or not twice", word);
	if (strcmp(word, "key") == 0 && !o->key.data && has & HAS_OBJECT)
		return (read_hex(value, &o->key) && o->key.n < MAX_ID) || wrong(l, "key= wants a CKA_ID in hexadecimal");
	if (strcmp(word, "mode") == 0 && !o->mode_mask && has & (HAS_SESSION | HAS_MODE)) {
		o->mode_mask = CKF_RW_SESSION;
		o->mode = strcmp(value, "rw") == 0 ? CKF_RW_SESSION : 0;
		return o->mode || strcmp(value, "ro") == 0 || wrong(l, "mode= is ro or rw");
	}
	struct {
		const char *name;
		CK_ULONG *into;
		bool may;
	} numbers[] = {
		{ "nth", &o->from, !o->from && !o->to },
		{ "from", &o->from, !o->from },
		{ "to", &o->to, !o->to },
		{ "every", &o->every, !o->every },
		{ "times", &o->times, !o->times },
		{ "idle", &o->idle, !o->idle && has & HAS_SESSION },
	};
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		if (strcmp(word, numbers[i].name) || !numbers[i].may)
			continue;
		if (!read_number(value, numbers[i].into) || *numbers[i].into == 0)
			return wrong(l, "%s= wants a number from 1", word);
		if (i == 0)
			o->to = o->from;
		return true;
	}
	return wrong(l, "%.40s= does not go with that, or not twice", word);
}

static bool parse_line(struct line *l, struct order *o)
{
	o->line = l->number;
	size_t i = 0;
	while (i < sizeof kinds / sizeof *kinds && strcmp(kinds[i].name, l->words[0]))
		i++;
	if (i < sizeof kinds / sizeof *kinds) {
		l->next = 1;
		if (!kinds[i].read(l, o))
			return false;
	} else {
		l->next = 1;
		if (!call(l, o))
			return false;
	}
	while (l->next < l->n) {
		if (!qualifier(l, o))
			return false;
	}
	return true;
}

/* split cuts text into words. An empty line or a comment has none. */
static bool split(struct line *l, char *text)
{
	l->n = l->next = 0;
	if (*text == '#' || *text == 0)
		return true;
	for (char *p = text; p; p = strchr(p, ' ')) {
		if (p != text)
			*p++ = 0;
		if (*p == ' ' || *p == 0)
			return wrong(l, "words are apart by one space, and none ends a line");
		if (l->n == MAX_WORDS)
			return wrong(l, "too many words");
		l->words[l->n++] = p;
	}
	return true;
}

static bool parse(struct orders *into, struct line *l, size_t n)
{
	char *p = into->text, *end = p + n;
	for (; p < end; l->number++) {
		char *newline = memchr(p, '\n', (size_t)(end - p));
		if (!newline)
			return wrong(l, "the last line is not ended");
		*newline = 0;
		for (char *c = p; c < newline; c++) {
			if (*c < ' ' || *c > '~')
				return wrong(l, "byte %02x is not text", (unsigned char)*c);
		}
		if (!split(l, p))
			return false;
		p = newline + 1;
		if (l->n == 0)
			continue;
		if (into->n == MAX_ORDERS)
			return wrong(l, "more than %d orders", MAX_ORDERS);
		struct order *o = &into->list[into->n];
		if (!parse_line(l, o))
			return false;
		into->n++;
		into->kinds |= 1u << o->what;
	}
	return true;
}

struct orders *orders_parse(const char *text, size_t n, char *why, size_t why_size)
{
	struct line l = { .number = 1, .why = why, .why_size = why_size };
	struct orders *o = calloc(1, sizeof *o);
	if (o && n <= MAX_FILE && (o->text = malloc(n + 1)) && (o->list = calloc(MAX_ORDERS, sizeof *o->list))) {
		memcpy(o->text, text, n);
		if (parse(o, &l, n))
			return o;
	} else {
		snprintf(why, why_size, n > MAX_FILE ? "more than %d bytes" : "no memory", MAX_FILE);
	}
	orders_free(o);
	return NULL;
}

void orders_free(struct orders *o)
{
	if (!o)
		return;
	free(o->list);
	free(o->text);
	free(o);
}
