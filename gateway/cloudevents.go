package main

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	meteringv1 "tollbook.dev/tollbook/gen/go/tollbook/metering/v1"
)

const cloudEventHeaderPrefix = "Ce-" // as net/http writes header names

// cloudEvents hands CloudEvents on: body, content type and ce- headers, as they arrived. What is one, and what it means,
// is the service's to say.
type cloudEvents struct {
	client meteringv1.CloudEventsServiceClient
}

func (c cloudEvents) receive(w http.ResponseWriter, r *http.Request, _ map[string]string) {
	// The edge bounds the body.
	body, err := io.ReadAll(r.Body)
	if limit, tooLarge := bodyLimitOf(err); tooLarge {
		writeTooLarge(w, r, limit)
		return
	}
	if err != nil {
		handleError(r.Context(), nil, nil, w, r, status.Error(codes.InvalidArgument, "The request's body ended early."))
		return
	}
	request := &meteringv1.IngestCloudEventsRequest{Body: body, ContentType: r.Header.Get("Content-Type")}
	for name, values := range r.Header {
		if strings.HasPrefix(name, cloudEventHeaderPrefix) {
			for _, value := range values {
				request.Headers = append(request.Headers, &meteringv1.HttpHeader{Name: name, Value: value})
			}
		}
	}
	if !isUTF8(request) {
		handleError(r.Context(), nil, nil, w, r, status.Error(codes.InvalidArgument, "A header is not UTF-8."))
		return
	}
	answer, err := c.client.IngestCloudEvents(withCredentialOf(r), request)
	if err != nil {
		handleError(r.Context(), nil, nil, w, r, err)
		return
	}
	written, err := answerJSON.Marshal(answer)
	if err != nil {
		handleError(r.Context(), nil, nil, w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, written)
}

// isUTF8 says that the request can be sent: protobuf's text is UTF-8, HTTP's is any bytes.
func isUTF8(request *meteringv1.IngestCloudEventsRequest) bool {
	return utf8.ValidString(request.GetContentType()) &&
		!slices.ContainsFunc(request.GetHeaders(), func(header *meteringv1.HttpHeader) bool {
			return !utf8.ValidString(header.GetName()) || !utf8.ValidString(header.GetValue())
		})
}

// withCredentialOf carries the request's credential to the call, as grpc-gateway does for the contract's own paths.
func withCredentialOf(r *http.Request) context.Context {
	credentials := r.Header.Values("Authorization")
	if len(credentials) == 0 {
		return r.Context()
	}
	return metadata.AppendToOutgoingContext(r.Context(), authorizationKey, credentials[0])
}
