"""Errors in Stripe's shape: what happened, with the HTTP status and the codes that its libraries act on."""

from http import HTTPStatus
from typing import Any

# How Stripe spells a kind in its messages, where that differs from the object's own name.
_SPOKEN_NAMES = {"payment_method": "PaymentMethod", "test_helpers.test_clock": "test clock"}


class StripeError(Exception):
    """An answer other than success.

    `saved` says whether a retry under the same idempotency key gets this answer again: yes once the work began,
    no for what was refused before. `keeps_effects` is set where the failure itself is a change, such as a
    declined payment: it is committed, everything else is rolled back.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = HTTPStatus.BAD_REQUEST,
        error_type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        decline_code: str | None = None,
        saved: bool = True,
        keeps_effects: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = int(status)
        self.saved = saved
        self.keeps_effects = keeps_effects
        self._details = {"code": code, "decline_code": decline_code, "param": param, "type": error_type}

    def body(self) -> dict[str, Any]:
        """The JSON body; Stripe leaves out what it has nothing to say about."""
        details = {name: value for name, value in self._details.items() if value is not None}
        return {"error": {**details, "message": str(self)}}


def parameter_missing(param: str) -> StripeError:
    """A parameter that the call cannot do without."""
    return StripeError(f"Missing required param: {param}.", code="parameter_missing", param=param, saved=False)


def parameter_unknown(param: str) -> StripeError:
    """A parameter that nothing read: misspelt, or not simulated."""
    message = f"Received unknown parameter: {param} (or one that this simulator does not simulate)"
    return StripeError(message, code="parameter_unknown", param=param, saved=False)


def parameter_invalid(param: str, message: str, *, code: str | None = None) -> StripeError:
    """A parameter whose value has the wrong shape."""
    return StripeError(message, code=code, param=param, saved=False)


def resource_missing(kind: str, identifier: str, *, param: str | None = None) -> StripeError:
    """No such object: 404 when the URL names it (no `param`), 400 when a parameter does."""
    return StripeError(
        f"No such {_SPOKEN_NAMES.get(kind, kind)}: '{identifier}'",
        status=HTTPStatus.NOT_FOUND if param is None else HTTPStatus.BAD_REQUEST,
        code="resource_missing",
        param=param or "id",
    )


def not_possible(message: str, *, code: str | None = None, param: str | None = None) -> StripeError:
    """What was asked is well formed, and the object's state forbids it."""
    return StripeError(message, code=code, param=param)


def card_declined(decline_code: str = "generic_decline", *, keeps_effects: bool = False) -> StripeError:
    """The card said no."""
    return StripeError(
        "Your card was declined.",
        status=HTTPStatus.PAYMENT_REQUIRED,
        error_type="card_error",
        code="card_declined",
        decline_code=decline_code,
        keeps_effects=keeps_effects,
    )


def unauthorized(presented: str) -> StripeError:
    """No key, or not ours; of a wrong key the last four characters are told, as Stripe does."""
    if not presented:
        message = "You did not provide an API key: send it as 'Authorization: Bearer YOUR_SECRET_KEY'."
    else:
        message = f"Invalid API Key provided: ****{presented[-4:]}"
    return StripeError(message, status=HTTPStatus.UNAUTHORIZED, saved=False)


def unknown_url(method: str, path: str) -> StripeError:
    """Nothing answers there: not Stripe's, or not simulated."""
    return StripeError(
        f"Unrecognized request URL ({method}: {path}), or one that this simulator does not simulate.",
        status=HTTPStatus.NOT_FOUND,
        saved=False,
    )


def rate_limited() -> StripeError:
    """Too many calls at once."""
    return StripeError(
        "Request rate limit exceeded.", status=HTTPStatus.TOO_MANY_REQUESTS, code="rate_limit", saved=False
    )


def lock_timeout() -> StripeError:
    """Another call holds the object."""
    return StripeError(
        "This object cannot be accessed right now because another API request or Stripe process is accessing it.",
        status=HTTPStatus.CONFLICT,
        code="lock_timeout",
        saved=False,
    )


def api_error(*, saved: bool) -> StripeError:
    """Something failed on Stripe's side."""
    return StripeError(
        "An unknown error occurred.",
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        error_type="api_error",
        saved=saved,
    )


def key_in_use(key: str) -> StripeError:
    """Another call with this idempotency key is still running."""
    return StripeError(
        f"There is currently another in-progress request using this Idempotent Key: {key}. Please try again later.",
        status=HTTPStatus.CONFLICT,
        code="idempotency_key_in_use",
        saved=False,
    )


def key_reused(message: str) -> StripeError:
    """The idempotency key was first used for something else."""
    return StripeError(message, error_type="idempotency_error", saved=False)
