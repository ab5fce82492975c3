"""What Stripe charges in a currency: not too little, and in some only round amounts."""

# https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts, in the smallest unit.
_MINIMUM_CHARGES = {
    "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250, "eur": 50,
    "gbp": 30, "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000, "myr": 200, "nok": 300, "nzd": 50,
    "pln": 200, "ron": 200, "sek": 300, "sgd": 50, "thb": 1000, "usd": 50,
}  # fmt: skip

# https://docs.stripe.com/currencies#special-cases: three-decimal currencies end in 0; the krona and the
# shilling, which have no decimals, are written with two.
_INCREMENTS = {"bhd": 10, "jod": 10, "kwd": 10, "omr": 10, "tnd": 10, "isk": 100, "ugx": 100}

# Eight digits.
CHARGE_MAX = 99_999_999


def minimum_charge(currency: str) -> int:
    """The smallest amount that can be charged; what is below goes to the customer's balance."""
    return _MINIMUM_CHARGES.get(currency, 1)


def charge_increment(currency: str) -> int:
    """What every charged amount is a multiple of."""
    return _INCREMENTS.get(currency, 1)
