package main

import (
	"context"
	"io"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	billingv1 "tollbook.dev/tollbook/gen/go/tollbook/billing/v1"
)

// Stripe's events are a few kilobytes; the contract says 1 MiB.
const webhookBytesMax = 1 << 20

// stripeWebhooks hands Stripe's events on. Their signature is over the raw bytes, so nothing here may parse them.
type stripeWebhooks struct {
	client billingv1.StripeWebhookServiceClient
}

func (s stripeWebhooks) receive(w http.ResponseWriter, r *http.Request, _ map[string]string) {
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, webhookBytesMax))
	if limit, tooLarge := bodyLimitOf(err); tooLarge {
		writeTooLarge(w, r, limit)
		return
	}
	if err != nil {
		handleError(r.Context(), nil, nil, w, r, status.Error(codes.InvalidArgument, "The request's body ended early."))
		return
	}
	if err := s.handOn(r.Context(), payload, r.Header.Get("Stripe-Signature")); err != nil {
		refused := explained(r, statusOf(err))
		writeStatus(w, refused, webhookStatus(refused.Code()))
		return
	}
	writeJSON(w, http.StatusOK, []byte("{}"))
}

func (s stripeWebhooks) handOn(ctx context.Context, payload []byte, signature string) error {
	_, err := s.client.HandleStripeEvent(ctx, &billingv1.HandleStripeEventRequest{Payload: payload, Signature: signature})
	return err
}

// webhookStatus is what Stripe's dashboard shows to whoever set the endpoint up: 400 for a signature that does not fit,
// as in Stripe's own examples, and 404 where webhooks are off.
func webhookStatus(code codes.Code) int {
	switch code {
	case codes.Unauthenticated:
		return http.StatusBadRequest
	case codes.FailedPrecondition:
		return http.StatusNotFound
	default:
		return runtime.HTTPStatusFromCode(code)
	}
}
