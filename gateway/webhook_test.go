package main

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	billingv1 "tollbook.dev/tollbook/gen/go/tollbook/billing/v1"
)

const webhookPath = "/api/webhooks/stripe"

func TestAWebhooksBytesAndSignatureArriveUnchanged(t *testing.T) {
	s := startSuite(t)
	var received *billingv1.HandleStripeEventRequest
	var requestID, credential string
	s.stripeEvent = func(
		ctx context.Context, request *billingv1.HandleStripeEventRequest,
	) (*billingv1.HandleStripeEventResponse, error) {
		received = request
		requestID = strings.Join(metadataOf(ctx).Get("x-request-id"), "|")
		credential = strings.Join(metadataOf(ctx).Get("authorization"), "|")
		return &billingv1.HandleStripeEventResponse{}, nil
	}
	for _, sent := range [][]byte{
		[]byte("{\r\n  \"id\" : \"evt_1\",\t\"dup\":1,\"dup\":2, \"n\": 1.0e2}\n\n"),
		{0x00, 0xff, 0xfe, '\r', '\n', 0x80},
		{},
		bytes.Repeat([]byte("x"), 1<<20),
	} {
		got := s.send(t, "POST", webhookPath, bytes.NewReader(sent), "Stripe-Signature: t=1,v1=ab,v1=cd",
			"X-Request-Id: req-7", "Content-Type: application/json; charset=utf-8", "Authorization: Bearer x")
		expect(t, "status", got.status, http.StatusOK)
		expect(t, "body", string(got.body), "{}")
		if !bytes.Equal(received.GetPayload(), sent) {
			t.Errorf("%d bytes sent, others received", len(sent))
		}
		expect(t, "signature", received.GetSignature(), "t=1,v1=ab,v1=cd")
		expect(t, "request id", requestID, "req-7")
		expect(t, "a public call carries no credential", credential, "")
	}
}

func TestAWebhookAboveTheLimitIs413AndReachesNobody(t *testing.T) {
	s := startSuite(t)
	s.stripeEvent = func(
		context.Context, *billingv1.HandleStripeEventRequest,
	) (*billingv1.HandleStripeEventResponse, error) {
		t.Error("reached the service")
		return &billingv1.HandleStripeEventResponse{}, nil
	}
	got := s.call(t, "POST", webhookPath, strings.Repeat("x", 1<<20+1))
	expect(t, "status", got.status, http.StatusRequestEntityTooLarge)
	expect(t, "reason", got.reason(t), "LIMIT_EXCEEDED")
}

func TestAWebhooksRefusalHasTheStatusThatStripeUnderstands(t *testing.T) {
	s := startSuite(t)
	for code, want := range map[codes.Code]int{
		codes.Unauthenticated:    http.StatusBadRequest,
		codes.FailedPrecondition: http.StatusNotFound,
		codes.Unavailable:        http.StatusServiceUnavailable,
		codes.Internal:           http.StatusInternalServerError,
	} {
		refused, _ := status.New(code, "The signature does not fit.").WithDetails(reasonOf("SIGNATURE_INVALID"))
		s.stripeEvent = func(
			context.Context, *billingv1.HandleStripeEventRequest,
		) (*billingv1.HandleStripeEventResponse, error) {
			return nil, refused.Err()
		}
		got := s.call(t, "POST", webhookPath, "{}")
		expect(t, code.String(), got.status, want)
		expect(t, "reason", got.reason(t), "SIGNATURE_INVALID")
		expect(t, "WWW-Authenticate", got.headers.Get("WWW-Authenticate"), "")
	}
}
