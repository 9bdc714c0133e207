package rpc

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"chancery/signer"
	"chancery/signer/api"
	pb "chancery/signer/api/chanceryv1"
)

func TestWhatAnAnsweredCallCountsAs(t *testing.T) {
	done := &pb.SignJWTResult{Outcome: &pb.SignJWTResult_Reply{Reply: &pb.SignJWTResponse{}}}
	failed := func(c api.Code) *pb.SignJWTResult { return problem(&api.Problem{Code: c}) }
	for _, c := range []struct {
		what  string
		reply proto.Message
		want  string
	}{
		{"one token", &pb.SignJWTResponse{}, "ok"},
		{"a batch", &pb.SignJWTBatchResponse{Results: []*pb.SignJWTResult{done, done}}, "ok"},
		{"one of it may not", &pb.SignJWTBatchResponse{Results: []*pb.SignJWTResult{done, failed(api.CodeForbidden), done}}, "forbidden"},
		{"what is ours before what is its caller's", &pb.SignJWTBatchResponse{Results: []*pb.SignJWTResult{
			failed(api.CodeDeadlineExceeded), failed(api.CodeBackendUnavailable), failed(api.CodeAuditUnavailable), failed(api.CodeCanceled),
		}}, "backend_unavailable"},
	} {
		if got := counted(c.reply); got != c.want {
			t.Errorf("%s counts as %s, want %s", c.what, got, c.want)
		}
	}
}

// A message that did not come in the daemon's own ten seconds counted as a deadline of
// its caller's.
func TestWhatACallCountsAsThatNobodyAnswered(t *testing.T) {
	ours, cancel := signer.Within(t.Context(), 0)
	defer cancel()
	theirs, cancel2 := context.WithTimeout(t.Context(), 0)
	defer cancel2()
	gaveUp, hangUp := context.WithCancel(t.Context())
	hangUp()
	for _, c := range []struct {
		ctx  context.Context
		code codes.Code
		want api.Code
	}{
		{ours, codes.DeadlineExceeded, api.CodeMalformed},
		{theirs, codes.DeadlineExceeded, api.CodeDeadlineExceeded},
		{gaveUp, codes.Canceled, api.CodeCanceled},
	} {
		if got := unanswered(c.ctx, status.Error(c.code, "")); got != string(c.want) {
			t.Errorf("%v: %s, want %s", context.Cause(c.ctx), got, c.want)
		}
	}
	if got := unbegun(ours); got != string(api.CodeOverloaded) { // there was no message to wait for
		t.Errorf("before it was looked at: %s", got)
	}
	if got := unbegun(gaveUp); got != string(api.CodeCanceled) {
		t.Errorf("who gave up before: %s", got)
	}
}
