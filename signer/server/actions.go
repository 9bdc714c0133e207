package server

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
)

func (g *guarded) signJWT(r *request) (int, any, error) {
	var req api.SignJWTRequest
	if err := r.decode(&req, api.DefaultLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.SignJWT(r.Context(), r.who, req)
	return http.StatusOK, reply, err
}

func (g *guarded) signBatch(r *request) (int, any, error) {
	var req api.BatchRequest
	if err := r.decode(&req, api.BatchLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.SignJWTBatch(r.Context(), r.who, req)
	return http.StatusOK, reply, err
}

func (g *guarded) signCSR(r *request) (int, any, error) {
	var req api.SignCSRRequest
	if err := r.decode(&req, api.CSRLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	keys := r.Header.Values("Idempotency-Key")
	if len(keys) > 1 {
		return 0, nil, &decodeError{api.Errorf(api.CodeMalformed, "more than one Idempotency-Key")}
	}
	reply, err := g.Service.SignCSR(r.Context(), r.who, req, r.Header.Get("Idempotency-Key"))
	return http.StatusOK, reply, err
}

func (g *guarded) keySets(r *request) (int, any, error) {
	reply, err := g.Service.KeySets(r.Context(), r.who)
	return http.StatusOK, reply, err
}

func (g *guarded) keySet(r *request) (int, any, error) {
	reply, err := g.Service.KeySet(r.Context(), r.who, r.PathValue("name"))
	return http.StatusOK, reply, err
}

func (g *guarded) plan(r *request) (int, any, error) {
	reply, err := g.Service.Plan(r.Context(), r.who, r.PathValue("name"))
	return http.StatusOK, reply, err
}

func (g *guarded) history(r *request) (int, any, error) {
	since, err := moment(r, "since")
	if err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.History(r.Context(), r.who, r.PathValue("name"), since)
	return http.StatusOK, reply, err
}

func (g *guarded) rotate(r *request) (int, any, error) {
	req, err := operation(r)
	if err != nil {
		return 0, nil, err
	}
	reply, err := g.Service.Rotate(r.Context(), r.who, r.PathValue("name"), req)
	return http.StatusAccepted, reply, err
}

func (g *guarded) suspend(r *request) (int, any, error) {
	req, err := operation(r)
	if err != nil {
		return 0, nil, err
	}
	reply, err := g.Service.Suspend(r.Context(), r.who, r.PathValue("name"), req)
	return http.StatusOK, reply, err
}

func (g *guarded) resume(r *request) (int, any, error) {
	req, err := operation(r)
	if err != nil {
		return 0, nil, err
	}
	reply, err := g.Service.Resume(r.Context(), r.who, r.PathValue("name"), req)
	return http.StatusOK, reply, err
}

func operation(r *request) (req api.OperateRequest, err error) {
	if err := r.decode(&req, api.DefaultLimits); err != nil {
		return req, &decodeError{err}
	}
	return req, nil
}

func (g *guarded) compromise(r *request) (int, any, error) {
	var req api.CompromiseRequest
	if err := r.decode(&req, api.DefaultLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.Compromise(r.Context(), r.who, r.PathValue("name"), req)
	return http.StatusOK, reply, err
}

func (g *guarded) compromiseAll(r *request) (int, any, error) {
	var req api.CompromiseAllRequest
	if err := r.decode(&req, api.DefaultLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.CompromiseAll(r.Context(), r.who, req)
	return http.StatusOK, reply, err
}

func (g *guarded) destroy(r *request) (int, any, error) {
	var req api.DestroyRequest
	if err := r.decode(&req, api.DefaultLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.Destroy(r.Context(), r.who, r.PathValue("name"), req)
	return http.StatusOK, reply, err
}

func (g *guarded) reconcile(r *request) (int, any, error) {
	var req api.ReconcileRequest
	if err := r.decode(&req, api.DefaultLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.Reconcile(r.Context(), r.who, req)
	return http.StatusOK, reply, err
}

func (g *guarded) reconciled(r *request) (int, any, error) {
	reply, err := g.Service.Reconciled(r.Context(), r.who)
	return http.StatusOK, reply, err
}

func (g *guarded) tokens(r *request) (int, any, error) {
	reply, err := g.Service.TokenList(r.Context(), r.who)
	return http.StatusOK, reply, err
}

func (g *guarded) tokenRetry(r *request) (int, any, error) {
	var req api.TokenRetryRequest
	if err := r.decode(&req, api.DefaultLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.TokenRetry(r.Context(), r.who, req.Token)
	return http.StatusOK, reply, err
}

func (g *guarded) clockConfirm(r *request) (int, any, error) {
	var req api.ClockConfirmRequest
	if err := r.decode(&req, api.DefaultLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.ConfirmClock(r.Context(), r.who, req)
	return http.StatusOK, reply, err
}

// maxEntries is the most entries one answer holds.
const maxEntries = 1000

func (g *guarded) lifecycleEntries(r *request) (int, any, error) {
	return g.entries(r, "lifecycle")
}

func (g *guarded) actsEntries(r *request) (int, any, error) {
	return g.entries(r, "acts/"+r.PathValue("month"))
}

func (g *guarded) entries(r *request, log string) (int, any, error) {
	from, err := number(r, "from", 0)
	if err != nil {
		return 0, nil, &decodeError{err}
	}
	limit, err := number(r, "limit", maxEntries)
	if err != nil {
		return 0, nil, &decodeError{err}
	}
	if err := g.Service.ReadAudit(r.Context(), r.who, log); err != nil {
		return 0, nil, err
	}
	var lines bytes.Buffer
	err = g.Entries.WriteEntries(r.Context(), &lines, r.PathValue("node"), log, from, min(limit, maxEntries))
	if errors.Is(err, keystore.ErrNotFound) {
		err = api.Errorf(api.CodeNotFound, "no such log")
	}
	return http.StatusOK, jsonLines(lines.Bytes()), err
}

func number(r *request, name string, otherwise int64) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, api.Errorf(api.CodeMalformed, "%q is a whole number", name)
	}
	return n, nil
}

// moment reads a time of the query; absent: the zero time.
func moment(r *request, name string) (time.Time, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, api.Errorf(api.CodeMalformed, "%q is a time as in RFC 3339", name)
	}
	return t, nil
}
