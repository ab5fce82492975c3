package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	errorsv1 "tollbook.dev/tollbook/gen/go/tollbook/errors/v1"
)

const errorDomain = "tollbook.dev"

// handleError answers a call that was refused: the service's status as it is, or, where the call never reached one, a
// status in the same form.
func handleError(
	_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error,
) {
	if limit := exchangeOf(r.Context()).bodyLimitReached; limit > 0 {
		writeTooLarge(w, r, limit)
		return
	}
	refused := explained(r, statusOf(err))
	writeStatus(w, refused, runtime.HTTPStatusFromCode(refused.Code()))
}

// statusOf answers the status as it was sent. Where gRPC's library has put words of its own around it, status.Convert
// would make them the message.
func statusOf(err error) *status.Status {
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		return carrier.GRPCStatus()
	}
	return status.Convert(err)
}

// handleRoutingError answers a request that no route takes.
func handleRoutingError(
	_ context.Context, mux *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, httpStatus int,
) {
	if _, ok := trialOf(r.Context()); ok {
		return
	}
	refused := refusal(r, codes.NotFound, errorsv1.ErrorReason_ERROR_REASON_NOT_FOUND,
		"Nothing answers at this path; GET /openapi.json describes what does.")
	switch httpStatus {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", allowed(mux, r))
		refused = refusal(r, codes.Unimplemented, errorsv1.ErrorReason_ERROR_REASON_METHOD_NOT_ALLOWED,
			fmt.Sprintf("This path does not answer %s; GET /openapi.json describes what it does.", r.Method))
	case http.StatusBadRequest:
		refused = refusal(r, codes.InvalidArgument, errorsv1.ErrorReason_ERROR_REASON_INVALID_FIELD,
			"The request's target is not a path.")
	}
	writeStatus(w, refused, httpStatus)
}

func writeTooLarge(w http.ResponseWriter, r *http.Request, limit int64) {
	refused := refusal(r, codes.InvalidArgument, errorsv1.ErrorReason_ERROR_REASON_LIMIT_EXCEEDED,
		fmt.Sprintf("The request's body is larger than %d bytes.", limit))
	writeStatus(w, refused, http.StatusRequestEntityTooLarge)
}

// explained gives a status that carries no reason one of the documented ones. What the transport says of addresses and
// streams is for the log, not for the caller.
func explained(r *http.Request, bare *status.Status) *status.Status {
	for _, detail := range bare.Details() {
		if _, ok := detail.(*errdetails.ErrorInfo); ok {
			return bare
		}
	}
	if bare.Code() == codes.InvalidArgument {
		return refusal(r, codes.InvalidArgument, errorsv1.ErrorReason_ERROR_REASON_INVALID_FIELD, plainWords(bare.Message()))
	}
	exchange := exchangeOf(r.Context())
	exchange.upstreamError = bare.String()
	switch bare.Code() {
	case codes.Unavailable:
		return refusal(r, bare.Code(), errorsv1.ErrorReason_ERROR_REASON_DEPENDENCY_UNAVAILABLE,
			"A service behind the gateway cannot be reached; retry with the same ids.")
	case codes.DeadlineExceeded, codes.Canceled:
		return refusal(r, bare.Code(), errorsv1.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED,
			"The call was not answered within its deadline; retry with the same ids.")
	case codes.ResourceExhausted:
		return refusal(r, bare.Code(), errorsv1.ErrorReason_ERROR_REASON_LIMIT_EXCEEDED,
			"The request or its answer is larger than a service takes; ask for less at once.")
	default:
		return refusal(r, bare.Code(), errorsv1.ErrorReason_ERROR_REASON_INTERNAL,
			"A defect of ours; the operator finds it by request id "+exchange.requestID+".")
	}
}

// plainWords undoes what the protobuf library does so that nobody compares its messages: a prefix, and now and then a
// no-break space in place of a space.
func plainWords(message string) string {
	return strings.TrimPrefix(strings.ReplaceAll(message, "\u00a0", " "), "proto: ")
}

func refusal(r *http.Request, code codes.Code, reason errorsv1.ErrorReason, message string) *status.Status {
	bare := status.New(code, message)
	detailed, err := bare.WithDetails(&errdetails.ErrorInfo{
		Reason:   strings.TrimPrefix(reason.String(), "ERROR_REASON_"),
		Domain:   errorDomain,
		Metadata: map[string]string{"request_id": exchangeOf(r.Context()).requestID},
	})
	if err != nil { // a message that cannot be packed; ours can
		return bare
	}
	return detailed
}

// writeStatus writes {code, message, details}, grpc-gateway's form of an error.
func writeStatus(w http.ResponseWriter, refused *status.Status, httpStatus int) {
	told := refused.Proto()
	told.Details = slices.DeleteFunc(told.GetDetails(), cannotBeTold)
	body, err := answerJSON.Marshal(told)
	if err != nil { // a message that is not UTF-8
		body = []byte(`{"code":13,"message":"A defect of ours: an error that cannot be told.","details":[]}`)
		httpStatus = http.StatusInternalServerError
	}
	if httpStatus == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if seconds, ok := retrySeconds(refused); ok {
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	writeJSON(w, httpStatus, body)
}

// cannotBeTold says that a detail is of a type that this binary does not know, which JSON has no form for.
func cannotBeTold(detail *anypb.Any) bool {
	_, err := detail.UnmarshalNew()
	return err != nil
}

// retrySeconds is RetryInfo's delay in whole seconds, rounded up: coming back too early helps nobody.
func retrySeconds(refused *status.Status) (int64, bool) {
	for _, detail := range refused.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			delay := max(retry.GetRetryDelay().AsDuration(), 0)
			return int64((delay + time.Second - 1) / time.Second), true
		}
	}
	return 0, false
}

func writeJSON(w http.ResponseWriter, httpStatus int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(httpStatus)
	// A caller who went away cannot be told.
	_, _ = w.Write(body)
}

func bodyLimitOf(err error) (int64, bool) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return tooLarge.Limit, true
	}
	return 0, false
}
