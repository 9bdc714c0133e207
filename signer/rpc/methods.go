package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "chancery/signer/api/chanceryv1"

	"chancery/signer/api"
	"chancery/signer/policy"
)

const (
	serviceName = "chancery.v1.Signer"
	streamRoute = "/" + serviceName + "/SignJWTStream"
)

// service is the table of methods. Each reads its own message, so that it is known
// who asks before anything is read; generated handlers would parse it first.
func (s *Server) service() *grpc.ServiceDesc {
	stream := grpc.StreamDesc{StreamName: "SignJWTStream", Handler: s.serveStream, ServerStreams: true, ClientStreams: true}
	return &grpc.ServiceDesc{
		ServiceName: serviceName, HandlerType: (*any)(nil), Metadata: pb.Signer_ServiceDesc.Metadata,
		Streams: []grpc.StreamDesc{
			s.unary(method{"SignJWT", s.Limits.MaxBody, s.signJWT}),
			s.unary(method{"SignJWTBatch", s.Limits.MaxBatchBody, s.signBatch}),
			s.unary(method{"SignCSR", s.Limits.MaxBody, s.signCSR}),
			s.unary(method{"SignDigest", s.Limits.MaxBody, s.signDigest}),
			stream,
		},
	}
}

func (s *Server) signJWT(ctx context.Context, who policy.Caller, f *frame, most int64) (proto.Message, error) {
	var m pb.SignJWTRequest
	if err := f.decode(&m, most); err != nil {
		return nil, &decodeError{err}
	}
	req, err := jwtRequest(&m)
	if err != nil {
		return nil, &decodeError{err}
	}
	reply, err := s.Service.SignJWT(ctx, who, req)
	if err != nil {
		return nil, err
	}
	return jwtResponse(&reply), nil
}

func (s *Server) signBatch(ctx context.Context, who policy.Caller, f *frame, most int64) (proto.Message, error) {
	var m pb.SignJWTBatchRequest
	if err := f.decode(&m, most); err != nil {
		return nil, &decodeError{err}
	}
	reqs := m.GetRequests()
	reply, err := s.Service.SignJWTs(ctx, who, len(reqs), func(i int) (api.SignJWTRequest, error) {
		return jwtRequest(reqs[i])
	})
	if err != nil {
		return nil, err
	}
	results := make([]*pb.SignJWTResult, len(reply.Results))
	for i, r := range reply.Results {
		results[i] = jwtResult(r)
	}
	return &pb.SignJWTBatchResponse{Results: results}, nil
}

func (s *Server) signCSR(ctx context.Context, who policy.Caller, f *frame, most int64) (proto.Message, error) {
	var m pb.SignCSRRequest
	if err := f.decode(&m, most); err != nil {
		return nil, &decodeError{err}
	}
	req := api.SignCSRRequest{Authority: m.GetAuthority(), Profile: m.GetProfile(), CSR: m.GetCsr(), TTL: m.Ttl}
	reply, err := s.Service.SignCSR(ctx, who, req, m.GetIdempotencyKey())
	if err != nil {
		return nil, err
	}
	return csrResponse(&reply), nil
}

func (s *Server) signDigest(ctx context.Context, who policy.Caller, f *frame, most int64) (proto.Message, error) {
	var m pb.SignDigestRequest
	if err := f.decode(&m, most); err != nil {
		return nil, &decodeError{err}
	}
	req, err := digestRequest(&m)
	if err != nil {
		return nil, &decodeError{err}
	}
	reply, err := s.Service.SignDigest(ctx, who, req)
	if err != nil {
		return nil, err
	}
	return digestResponse(&reply)
}
