/* The control file. It is looked at before each call and read again when it is
 * another one.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "faultmodule.h"

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER; /* guards the rest */
static char *path;
static int file = -1;         /* what was read last; open, so that its inode is not given to its successor */
static struct stat read_then; /* of file */
static struct orders *current; /* NULL: not understood */
static int trouble;            /* the errno that was complained about */

void complain(const char *format, ...)
{
	char text[512] = "faultmodule: ";
	size_t n = strlen(text);
	va_list args;
	va_start(args, format);
	vsnprintf(text + n, sizeof text - n - 1, format, args);
	va_end(args);
	strcat(text, "\n");
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		return; /* there is nobody to tell */
}

static bool same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
		a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* name gives an order of this file a name, the same in each process: FNV-1a. */
static uint64_t name(unsigned line)
{
	uint64_t parts[] = {
		(uint64_t)read_then.st_dev, (uint64_t)read_then.st_ino, (uint64_t)read_then.st_size,
		(uint64_t)read_then.st_mtim.tv_sec, (uint64_t)read_then.st_mtim.tv_nsec, line,
	};
	uint64_t h = 0xcbf29ce484222325;
	const unsigned char *p = (const unsigned char *)parts;
	for (size_t i = 0; i < sizeof parts; i++)
		h = (h ^ p[i]) * 0x100000001b3;
	return h ? h : 1;
}

static void forget(void)
{
	if (file >= 0)
		close(file);
	file = -1;
	if (current)
		control_release(current);
	current = NULL;
}

/* use makes o, which may be NULL, what stands. */
static void use(struct orders *o)
{
	current = o;
	if (!o)
		return;
	atomic_store(&o->holders, 1);
	for (size_t i = 0; i < o->n; i++) {
		if (o->list[i].times && !(o->list[i].used = counts_used(name(o->list[i].line)))) {
			complain("%s: no more room to count by times=", path);
			control_release(o);
			current = NULL;
			return;
		}
	}
}

/* blame complains about errno, once. */
static void blame(void)
{
	if (trouble != errno)
		complain("%s: %s", path, strerror(trouble = errno));
}

static void read_again(void)
{
	char *text = malloc(MAX_FILE + 1);
	size_t n = 0;
	ssize_t got = -1;
	forget();
	errno = 0;
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (text && file >= 0 && fstat(file, &read_then) == 0) {
		while (n <= MAX_FILE && (got = read(file, text + n, MAX_FILE + 1 - n)) > 0)
			n += (size_t)got;
	}
	if (n <= MAX_FILE && got != 0) {
		blame();
	} else {
		trouble = 0;
		char why[160];
		struct orders *o = orders_parse(text, n, why, sizeof why);
		if (!o)
			complain("%s: %s", path, why);
		use(o);
	}
	free(text);
}

/* look reads the file if it is not the one that was read. No file is no orders. */
static void look(void)
{
	struct stat now;
	if (!path || (stat(path, &now) != 0 && errno == ENOENT)) {
		if (file >= 0 || !current) {
			forget();
			use(orders_parse("", 0, (char[1]){ 0 }, 1));
		}
		trouble = 0;
	} else if (stat(path, &now) != 0) {
		blame();
		forget();
	} else if (file < 0 || !same(&now, &read_then)) {
		read_again();
	}
}

void control_open(const char *p)
{
	pthread_mutex_lock(&mu);
	path = p ? strdup(p) : NULL;
	pthread_mutex_unlock(&mu);
}

struct orders *control_hold(void)
{
	int before = errno;
	pthread_mutex_lock(&mu);
	look();
	struct orders *o = current;
	if (o)
		atomic_fetch_add(&o->holders, 1);
	pthread_mutex_unlock(&mu);
	errno = before;
	return o;
}

void control_release(struct orders *o)
{
	if (o && atomic_fetch_sub(&o->holders, 1) == 1)
		orders_free(o);
}
