/* Every function of CK_FUNCTION_LIST, in its order: PKCS#11 2.40 Section 5.
 *
 *	X(name, VIA, FACTS, (parameters), (arguments))
 *
 * VIA is REAL for what is forwarded as it is, OURS for what goes through a
 * function of this module called our_NAME. FACTS are what orders can go by:
 *
 *	SESSION(h)        it is called on a session
 *	SLOT(id)          it is called on a slot
 *	MODE(flags)       the flags of the session it opens
 *	OBJECT(h)         the key or object it is about
 *	SIGNING           it is about the key of the session's C_SignInit
 *	OUT(p, n)         it returns bytes; p is NULL in a question for their number
 *	LIST(p)           likewise, but what it returns are not bytes
 *	TEMPLATE(t, n)    likewise, for a template
 *
 * A file that uses the list defines X, REAL, OURS and those of FACTS.
 */
#define BUFFER_IN CK_BYTE *in, CK_ULONG inLen
#define BUFFER_OUT CK_BYTE *out, CK_ULONG *outLen
#define HANDLE CK_SESSION_HANDLE s

#define FUNCTIONS(X) \
	X(C_Initialize, REAL, , (void *initArgs), (initArgs)) \
	X(C_Finalize, OURS, , (void *reserved), (reserved)) \
	X(C_GetInfo, REAL, , (CK_INFO *info), (info)) \
	X(C_GetFunctionList, OURS, , (CK_FUNCTION_LIST **list), (list)) \
	X(C_GetSlotList, OURS, LIST(slots), (CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *n), (present, slots, n)) \
	X(C_GetSlotInfo, OURS, SLOT(slot), (CK_SLOT_ID slot, CK_SLOT_INFO *info), (slot, info)) \
	X(C_GetTokenInfo, OURS, SLOT(slot), (CK_SLOT_ID slot, CK_TOKEN_INFO *info), (slot, info)) \
	X(C_GetMechanismList, REAL, SLOT(slot) LIST(list), (CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, CK_ULONG *n), (slot, list, n)) \
	X(C_GetMechanismInfo, REAL, SLOT(slot), (CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info), (slot, type, info)) \
	X(C_InitToken, REAL, SLOT(slot), (CK_SLOT_ID slot, CK_UTF8CHAR *pin, CK_ULONG pinLen, CK_UTF8CHAR *label), (slot, pin, pinLen, label)) \
	X(C_InitPIN, REAL, SESSION(s), (HANDLE, CK_UTF8CHAR *pin, CK_ULONG pinLen), (s, pin, pinLen)) \
	X(C_SetPIN, REAL, SESSION(s), (HANDLE, CK_UTF8CHAR *old, CK_ULONG oldLen, CK_UTF8CHAR *pin, CK_ULONG pinLen), (s, old, oldLen, pin, pinLen)) \
	X(C_OpenSession, OURS, SLOT(slot) MODE(flags), (CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session), (slot, flags, application, notify, session)) \
	X(C_CloseSession, OURS, SESSION(s), (HANDLE), (s)) \
	X(C_CloseAllSessions, OURS, SLOT(slot), (CK_SLOT_ID slot), (slot)) \
	X(C_GetSessionInfo, REAL, SESSION(s), (HANDLE, CK_SESSION_INFO *info), (s, info)) \
	X(C_GetOperationState, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_OUT), (s, out, outLen)) \
	X(C_SetOperationState, REAL, SESSION(s), (HANDLE, BUFFER_IN, CK_OBJECT_HANDLE encryption, CK_OBJECT_HANDLE authentication), (s, in, inLen, encryption, authentication)) \
	X(C_Login, REAL, SESSION(s), (HANDLE, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG pinLen), (s, user, pin, pinLen)) \
	X(C_Logout, REAL, SESSION(s), (HANDLE), (s)) \
	X(C_CreateObject, REAL, SESSION(s), (HANDLE, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *made), (s, t, n, made)) \
	X(C_CopyObject, REAL, SESSION(s) OBJECT(o), (HANDLE, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *made), (s, o, t, n, made)) \
	X(C_DestroyObject, REAL, SESSION(s) OBJECT(o), (HANDLE, CK_OBJECT_HANDLE o), (s, o)) \
	X(C_GetObjectSize, REAL, SESSION(s) OBJECT(o), (HANDLE, CK_OBJECT_HANDLE o, CK_ULONG *size), (s, o, size)) \
	X(C_GetAttributeValue, OURS, SESSION(s) OBJECT(o) TEMPLATE(t, n), (HANDLE, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *t, CK_ULONG n), (s, o, t, n)) \
	X(C_SetAttributeValue, REAL, SESSION(s) OBJECT(o), (HANDLE, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *t, CK_ULONG n), (s, o, t, n)) \
	X(C_FindObjectsInit, REAL, SESSION(s), (HANDLE, CK_ATTRIBUTE *t, CK_ULONG n), (s, t, n)) \
	X(C_FindObjects, OURS, SESSION(s), (HANDLE, CK_OBJECT_HANDLE *found, CK_ULONG max, CK_ULONG *n), (s, found, max, n)) \
	X(C_FindObjectsFinal, REAL, SESSION(s), (HANDLE), (s)) \
	X(C_EncryptInit, REAL, SESSION(s) OBJECT(key), (HANDLE, CK_MECHANISM *m, CK_OBJECT_HANDLE key), (s, m, key)) \
	X(C_Encrypt, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_EncryptUpdate, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_EncryptFinal, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_OUT), (s, out, outLen)) \
	X(C_DecryptInit, REAL, SESSION(s) OBJECT(key), (HANDLE, CK_MECHANISM *m, CK_OBJECT_HANDLE key), (s, m, key)) \
	X(C_Decrypt, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_DecryptUpdate, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_DecryptFinal, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_OUT), (s, out, outLen)) \
	X(C_DigestInit, REAL, SESSION(s), (HANDLE, CK_MECHANISM *m), (s, m)) \
	X(C_Digest, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_DigestUpdate, REAL, SESSION(s), (HANDLE, BUFFER_IN), (s, in, inLen)) \
	X(C_DigestKey, REAL, SESSION(s) OBJECT(key), (HANDLE, CK_OBJECT_HANDLE key), (s, key)) \
	X(C_DigestFinal, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_OUT), (s, out, outLen)) \
	X(C_SignInit, OURS, SESSION(s) OBJECT(key), (HANDLE, CK_MECHANISM *m, CK_OBJECT_HANDLE key), (s, m, key)) \
	X(C_Sign, REAL, SESSION(s) SIGNING OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_SignUpdate, REAL, SESSION(s) SIGNING, (HANDLE, BUFFER_IN), (s, in, inLen)) \
	X(C_SignFinal, REAL, SESSION(s) SIGNING OUT(out, outLen), (HANDLE, BUFFER_OUT), (s, out, outLen)) \
	X(C_SignRecoverInit, REAL, SESSION(s) OBJECT(key), (HANDLE, CK_MECHANISM *m, CK_OBJECT_HANDLE key), (s, m, key)) \
	X(C_SignRecover, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_VerifyInit, REAL, SESSION(s) OBJECT(key), (HANDLE, CK_MECHANISM *m, CK_OBJECT_HANDLE key), (s, m, key)) \
	X(C_Verify, REAL, SESSION(s), (HANDLE, BUFFER_IN, CK_BYTE *sig, CK_ULONG sigLen), (s, in, inLen, sig, sigLen)) \
	X(C_VerifyUpdate, REAL, SESSION(s), (HANDLE, BUFFER_IN), (s, in, inLen)) \
	X(C_VerifyFinal, REAL, SESSION(s), (HANDLE, CK_BYTE *sig, CK_ULONG sigLen), (s, sig, sigLen)) \
	X(C_VerifyRecoverInit, REAL, SESSION(s) OBJECT(key), (HANDLE, CK_MECHANISM *m, CK_OBJECT_HANDLE key), (s, m, key)) \
	X(C_VerifyRecover, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_DigestEncryptUpdate, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_DecryptDigestUpdate, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_SignEncryptUpdate, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_DecryptVerifyUpdate, REAL, SESSION(s) OUT(out, outLen), (HANDLE, BUFFER_IN, BUFFER_OUT), (s, in, inLen, out, outLen)) \
	X(C_GenerateKey, REAL, SESSION(s), (HANDLE, CK_MECHANISM *m, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *key), (s, m, t, n, key)) \
	X(C_GenerateKeyPair, REAL, SESSION(s), (HANDLE, CK_MECHANISM *m, CK_ATTRIBUTE *pub, CK_ULONG pubN, CK_ATTRIBUTE *priv, CK_ULONG privN, CK_OBJECT_HANDLE *pubKey, CK_OBJECT_HANDLE *privKey), (s, m, pub, pubN, priv, privN, pubKey, privKey)) \
	X(C_WrapKey, REAL, SESSION(s) OBJECT(key) OUT(out, outLen), (HANDLE, CK_MECHANISM *m, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, BUFFER_OUT), (s, m, wrapping, key, out, outLen)) \
	X(C_UnwrapKey, REAL, SESSION(s) OBJECT(unwrapping), (HANDLE, CK_MECHANISM *m, CK_OBJECT_HANDLE unwrapping, BUFFER_IN, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *key), (s, m, unwrapping, in, inLen, t, n, key)) \
	X(C_DeriveKey, REAL, SESSION(s) OBJECT(base), (HANDLE, CK_MECHANISM *m, CK_OBJECT_HANDLE base, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *key), (s, m, base, t, n, key)) \
	X(C_SeedRandom, REAL, SESSION(s), (HANDLE, BUFFER_IN), (s, in, inLen)) \
	X(C_GenerateRandom, REAL, SESSION(s), (HANDLE, CK_BYTE *out, CK_ULONG n), (s, out, n)) \
	X(C_GetFunctionStatus, REAL, SESSION(s), (HANDLE), (s)) \
	X(C_CancelFunction, REAL, SESSION(s), (HANDLE), (s)) \
	X(C_WaitForSlotEvent, REAL, , (CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved), (flags, slot, reserved))
