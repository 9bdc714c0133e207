/* The function list that callers get, and the module it stands before. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

#include "faultmodule.h"

CK_FUNCTION_LIST *real;

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list);

/* is_size reports whether a template only asks how long its values are. */
static bool is_size(const CK_ATTRIBUTE *t, CK_ULONG n)
{
	for (CK_ULONG i = 0; t && i < n; i++) {
		if (t[i].pValue)
			return false;
	}
	return true;
}

/* functions.h, as the members of a call. */
#define SESSION(h) .has_session = true, .session = (h),
#define SLOT(id) .has_slot = true, .slot = (id),
#define MODE(f) .has_mode = true, .flags = (f),
#define OBJECT(h) .has_object = true, .object = (h),
#define SIGNING .signing = true,
#define OUT(p, n) .out = (p), .out_len = (n), .size = !(p),
#define LIST(p) .size = !(p),
#define TEMPLATE(t, n) .size = is_size(t, n),

#define UNPACKED(...) __VA_ARGS__
#define REAL(name, args) (real->name ? real->name args : CKR_FUNCTION_NOT_SUPPORTED)
#define OURS(name, args) our_##name(&c, UNPACKED args)

#define X(name, via, facts, params, args) \
	static CK_RV wrapped_##name params \
	{ \
		struct call c = { .fn = FN_##name, facts }; \
		CK_RV rv; \
		if (call_begin(&c, &rv)) \
			rv = call_done(&c, via(name, args)); \
		call_end(&c); \
		return rv; \
	}
FUNCTIONS(X)
#undef X

#define X(name, via, facts, params, args) .name = wrapped_##name,
static CK_FUNCTION_LIST list = { FUNCTIONS(X) };
#undef X

static void load(void)
{
	const char *path = getenv("FAULTMODULE_MODULE");
	if (!path || !*path) {
		complain("FAULTMODULE_MODULE names no module");
		return;
	}
	void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!module) {
		complain("%s", dlerror());
		return;
	}
	CK_RV (*get)(CK_FUNCTION_LIST **) = NULL;
	*(void **)&get = dlsym(module, "C_GetFunctionList");
	if (!get || get == C_GetFunctionList) {
		complain("%s is no other PKCS#11 module", path);
		return;
	}
	CK_FUNCTION_LIST *its = NULL;
	CK_RV rv = get(&its);
	if (rv != CKR_OK || !its) {
		complain("C_GetFunctionList of %s returns 0x%lx", path, rv);
		return;
	}
	control_open(getenv("FAULTMODULE_CONTROL"));
	if (!counts_open(getenv("FAULTMODULE_COUNTS")))
		return;
	list.version = its->version;
	real = its;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **into)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, load);
	return real ? wrapped_C_GetFunctionList(into) : CKR_GENERAL_ERROR;
}

CK_RV our_C_GetFunctionList(struct call *c, CK_FUNCTION_LIST **into)
{
	(void)c;
	if (!into)
		return CKR_ARGUMENTS_BAD;
	*into = &list;
	return CKR_OK;
}
