package rpc

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "chancery/signer/api/chanceryv1"

	"chancery/signer/api"
)

// jwtRequest returns what m asks for, or an *api.Error. What the words say is the
// Service's to judge, as with JSON.
func jwtRequest(m *pb.SignJWTRequest) (api.SignJWTRequest, error) {
	if err := known(m); err != nil {
		return api.SignJWTRequest{}, err
	}
	return api.SignJWTRequest{
		KeySet: m.GetKeyset(), Claims: m.GetClaims(), TTL: m.Ttl, Typ: m.GetTyp(),
		Profile: m.GetProfile(), CNFCertificate: m.GetCnfCertificate(),
	}, nil
}

func jwtResponse(r *api.SignJWTReply) *pb.SignJWTResponse {
	return &pb.SignJWTResponse{Token: r.Token, Kid: r.KID, ExpiresAt: timestamppb.New(r.ExpiresAt), Entry: r.Entry}
}

func jwtResult(r api.BatchResult) *pb.SignJWTResult {
	if r.Problem != nil {
		return problem(r.Problem)
	}
	return &pb.SignJWTResult{Outcome: &pb.SignJWTResult_Reply{Reply: jwtResponse(r.Reply)}}
}

func csrResponse(r *api.SignCSRReply) *pb.SignCSRResponse {
	return &pb.SignCSRResponse{
		Certificate: r.Certificate, Chain: r.Chain, Serial: r.Serial, NotAfter: timestamppb.New(r.NotAfter), Entry: r.Entry,
	}
}
