package rpc

import (
	"encoding/base64"
	"fmt"

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

func digestRequest(m *pb.SignDigestRequest) (api.SignDigestRequest, error) {
	req := api.SignDigestRequest{KeySet: m.GetKeyset(), Digest: base64.StdEncoding.EncodeToString(m.GetDigest())}
	switch m.GetFormat() {
	case pb.SignatureFormat_SIGNATURE_FORMAT_UNSPECIFIED, pb.SignatureFormat_SIGNATURE_FORMAT_DER:
		req.Format = api.FormatDER
	case pb.SignatureFormat_SIGNATURE_FORMAT_RAW:
		req.Format = api.FormatRaw
	default:
		return req, api.Errorf(api.CodeMalformed, "there is no signature format %d here", m.GetFormat())
	}
	return req, nil
}

func digestResponse(r *api.SignDigestReply) (*pb.SignDigestResponse, error) {
	signature, err := base64.StdEncoding.DecodeString(r.Signature)
	if err != nil {
		return nil, fmt.Errorf("reading the Service's signature: %w", err)
	}
	return &pb.SignDigestResponse{Signature: signature, Kid: r.KID, Algorithm: r.Algorithm, Entry: r.Entry}, nil
}
