"""Several users' requests in one body: the stages of `run.py`, with the store asked for all users at once.

Each request is answered, or refused, as if it had come alone. Between two of them the event loop gets a turn, so
that a batch does not hold up what else the worker answers.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from service.clock import Clock
from service.errors import InvalidRequest, MalformedBody, ScoringError, ServiceError, Violation
from service.guarded_store import GuardedStore
from service.models.live import Serving
from service.pipeline.decode import decode_batch
from service.pipeline.form import Form
from service.pipeline.hydrate import hydrate_many
from service.pipeline.route import check_domain
from service.pipeline.run import Answer, Asked, answer, understand

REQUEST_ID_CHARACTERS_MAX: Final = 64
"""What a request id may have, as a caller sends it and as events name it."""


async def score_batch(
    body: bytes,
    *,
    form: Form,
    answer_form: Form,
    domain: str | None,
    request_id: str,
    serving: Serving,
    store: GuardedStore,
    clock: Clock,
    candidates_max_count: int,
    new_items_max_count: int,
    requests_max_count: int,
    batch_candidates_max_count: int,
) -> list[Answer | ServiceError]:
    """Score the requests in a body, and return for each its answer, or why there is none.

    `candidates_max_count` and `new_items_max_count` are of one request, `batch_candidates_max_count` of all
    together. The time of hydrating is shared out among the requests evenly.

    Raises:
        RequestError: the body is no batch, or too large a one, or no model knows the domain.
    """
    check_domain(serving, domain)
    understood: list[Asked | ServiceError] = []
    for i, part in enumerate(decode_batch(body, form, requests_max_count=requests_max_count)):
        try:
            understood.append(
                understand(
                    part,
                    form,
                    domain=domain,
                    serving=serving,
                    clock=clock,
                    candidates_max_count=candidates_max_count,
                    new_items_max_count=new_items_max_count,
                )
            )
        except InvalidRequest as error:
            understood.append(_within_batch(error, i))
        except MalformedBody as error:
            understood.append(error)
        await asyncio.sleep(0)
    asked = [one for one in understood if isinstance(one, Asked)]
    if sum(len(one.request.item_ids) for one in asked) > batch_candidates_max_count:
        reason = f"expected <= {batch_candidates_max_count} candidates in all requests together"
        raise InvalidRequest([Violation("body.requests", reason)])
    began_s = clock.monotonic_s()
    users = iter(await hydrate_many(store, [one.wanted() for one in asked]))
    hydrate_s = (clock.monotonic_s() - began_s) / max(1, len(asked))
    answers: list[Answer | ServiceError] = []
    for i, one in enumerate(understood):
        if isinstance(one, Asked):
            try:
                answers.append(
                    answer(
                        one,
                        next(users),
                        form=answer_form,
                        request_id=id_within_batch(request_id, i),
                        clock=clock,
                        hydrate_s=hydrate_s,
                    )
                )
            except ScoringError as error:
                answers.append(error)
            await asyncio.sleep(0)
        else:
            answers.append(one)
    return answers


def id_within_batch(request_id: str, i: int) -> str:
    """Return the id of a batch's i-th request: the batch's, cut where it would grow too long, and the number."""
    number = f".{i}"
    return request_id[: REQUEST_ID_CHARACTERS_MAX - len(number)] + number


def _within_batch(error: InvalidRequest, i: int) -> InvalidRequest:
    """Return a refusal of the i-th request with its places as they are in the batch's body."""
    return InvalidRequest(
        [
            Violation(re.sub("^body", f"body.requests[{i}]", violation.where), violation.reason)
            for violation in error.violations
        ]
    )
