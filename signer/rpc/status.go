package rpc

import (
	"errors"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "chancery/signer/api/chanceryv1"

	"chancery/signer/api"
)

// Domain is the domain of the google.rpc.ErrorInfo of a refusal. Its reason is the
// api.Code.
const Domain = "chancery"

// statuses has the gRPC status code of each api.Code. UNAVAILABLE and
// RESOURCE_EXHAUSTED are not promises that nothing was signed: the reason says what
// happened.
var statuses = map[api.Code]codes.Code{
	api.CodeMalformed:             codes.InvalidArgument,
	api.CodeClaimReserved:         codes.InvalidArgument,
	api.CodeClaimInvalid:          codes.InvalidArgument,
	api.CodeTTLTooLong:            codes.InvalidArgument,
	api.CodeTypNotAllowed:         codes.InvalidArgument,
	api.CodeNameNotAllowed:        codes.InvalidArgument,
	api.CodeClaimNotAllowed:       codes.InvalidArgument,
	api.CodeClaimMissing:          codes.InvalidArgument,
	api.CodeAudienceNotAllowed:    codes.InvalidArgument,
	api.CodeScopeNotAllowed:       codes.InvalidArgument,
	api.CodeKeyRejected:           codes.InvalidArgument,
	api.CodeIdempotencyMismatch:   codes.InvalidArgument,
	api.CodeCertificateExpired:    codes.Unauthenticated,
	api.CodeCertificateRevoked:    codes.Unauthenticated,
	api.CodeForbidden:             codes.PermissionDenied,
	api.CodeNotFound:              codes.NotFound,
	api.CodeMethodNotAllowed:      codes.Unimplemented,
	api.CodeTooEarly:              codes.FailedPrecondition,
	api.CodeConflict:              codes.FailedPrecondition,
	api.CodeIdempotencyInProgress: codes.Aborted,
	api.CodeTooLarge:              codes.ResourceExhausted, // as gRPC has it for a message over its own limit
	api.CodeOverloaded:            codes.ResourceExhausted,
	api.CodeInternal:              codes.Internal,
	api.CodeSignatureInvalid:      codes.Internal,
	api.CodeKeySetSuspended:       codes.Unavailable,
	api.CodeBackendUnavailable:    codes.Unavailable,
	api.CodeAuditUnavailable:      codes.Unavailable,
	api.CodeLeaseExpired:          codes.Unavailable,
	api.CodeRevocationUnknown:     codes.Unavailable,
	api.CodeCanceled:              codes.Canceled,
	api.CodeDeadlineExceeded:      codes.DeadlineExceeded,
}

// statusCode returns the gRPC status code that an api.Code is sent with.
func statusCode(c api.Code) codes.Code {
	if s, ok := statuses[c]; ok {
		return s
	}
	return codes.Internal
}

// Status returns what crosses the wire of e: its detail as the message, its code as
// the reason of a google.rpc.ErrorInfo of Domain, with the rotation rule, if any, as
// the metadata "rule"; and a google.rpc.RetryInfo where it is worth asking again.
// The cause stays here.
func Status(e *api.Error) *status.Status {
	p := e.Problem()
	info := &errdetails.ErrorInfo{Reason: string(p.Code), Domain: Domain}
	if p.Rule != 0 {
		info.Metadata = map[string]string{"rule": strconv.Itoa(p.Rule)}
	}
	details := []protoadapt.MessageV1{info}
	if p.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(p.RetryAfter) * time.Second)})
	}
	s := status.New(statusCode(p.Code), p.Detail)
	with, err := s.WithDetails(details...)
	if err != nil { // never: the messages are well formed, and the code is not OK
		return s
	}
	return with
}

// problem is the refusal of one request among several.
func problem(p *api.Problem) *pb.SignJWTResult {
	return &pb.SignJWTResult{Outcome: &pb.SignJWTResult_Problem{Problem: &pb.Problem{
		Code: string(p.Code), Detail: p.Detail, RetryAfter: p.RetryAfter, Rule: int32(p.Rule),
	}}}
}

// publicError returns the *api.Error that err is; anything else is an internal error.
func publicError(err error) *api.Error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	return api.Errorf(api.CodeInternal, "internal error").Because(err)
}
