"""Clients of others' APIs, used as their own documentation does: `python stock_clients.py NAME URL` ends with 0 if all went as it should.

Run by `test_stock_clients` in an environment that has them; nothing here imports Attune. The member `warm` of the server answers with JSON.
"""

import sys

SAYS_JSON = "warm"
QUESTION = [{"role": "user", "content": "how do i boil an egg ?"}]
DOCUMENTS = ["yes .", "", "put it in water for six minutes", "lovely friend"]
TOO_LONG = [{"role": "user", "content": "egg " * 5000}]


def refused(call, kind, *words):
    """Asserts that a call ends with this kind of error, which has these words."""
    told = None
    try:
        call()
    except kind as error:
        told = str(error)
    assert told is not None, f"no {kind.__name__}"
    assert all(word in told for word in words), f"{words} are not in {told}"


def cohere(url):
    import cohere

    for client in (cohere.ClientV2("unused", base_url=url), cohere.Client("unused", base_url=url)):
        answer = client.rerank(model="auto", query="how do i boil an egg ?", documents=DOCUMENTS, top_n=3)
        assert len(answer.results) == 3
        assert {result.index for result in answer.results} == {0, 2, 3}  # a document without text comes last
        scores = [result.relevance_score for result in answer.results]
        assert scores == sorted(scores, reverse=True)
        refused(lambda client=client: client.rerank(model="auto", query="", documents=DOCUMENTS), cohere.BadRequestError, "query")


def langchain(url):
    import openai
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI
    from pydantic import BaseModel

    class Person(BaseModel):
        """Somebody."""

        name: str

    def weather(place: str) -> str:
        """Say what the weather is like."""
        return place

    model = ChatOpenAI(model="auto", base_url=f"{url}/v1", api_key="unused", max_retries=0, model_kwargs={"user": "ada"})
    assert model.invoke("how do i boil an egg ?").content
    assert "".join(chunk.content for chunk in model.stream("how do i boil an egg ?"))
    call = {"name": "weather", "args": {"place": "here"}, "id": "c1", "type": "tool_call"}
    history = [HumanMessage("Weather?"), AIMessage("", tool_calls=[call]), ToolMessage("sunny", tool_call_id="c1")]
    assert model.invoke(history).content
    assert model.bind_tools([weather]).invoke("Weather?").content
    refused(lambda: model.bind_tools([weather], tool_choice="any").invoke("Weather?"), openai.BadRequestError, "tool_choice")
    refused(lambda: model.with_structured_output(Person).invoke("Who?"), openai.BadRequestError, "response_format")
    refused(lambda: model.invoke("egg " * 5000), openai.BadRequestError, "context_length_exceeded")


def instructor(url):
    import instructor
    import openai
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    plain = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    reading = instructor.from_openai(plain, mode=instructor.Mode.MD_JSON)
    person = reading.chat.completions.create(model=SAYS_JSON, messages=QUESTION, response_model=Person, max_retries=1)
    assert (person.name, person.age) == ("Ada", 36)
    strict = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
    refused(
        lambda: strict.chat.completions.create(model=SAYS_JSON, messages=QUESTION, response_model=Person, max_retries=0),
        Exception,
        "tool_choice",
    )


def litellm(url):
    import litellm

    there = {"api_base": f"{url}/v1", "api_key": "unused", "num_retries": 0}
    answer = litellm.completion(model="openai/auto", messages=QUESTION, extra_body={"user": "ada"}, **there)
    assert answer.choices[0].message.content
    chunks = litellm.completion(model="openai/auto", messages=QUESTION, stream=True, **there)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    refused(lambda: litellm.completion(model="openai/auto", messages=TOO_LONG, **there), litellm.ContextWindowExceededError)
    refused(lambda: litellm.completion(model="openai/nobody", messages=QUESTION, **there), litellm.NotFoundError)
    for provider, base in (("cohere", f"{url}/v1/rerank"), ("hosted_vllm", url), ("infinity", url), ("jina_ai", f"{url}/v1")):
        found = litellm.rerank(
            model=f"{provider}/auto",
            query="how do i boil an egg ?",
            documents=DOCUMENTS,
            top_n=2,
            api_base=base,
            api_key="unused",
            return_documents=provider != "infinity",  # whose documents are strings where all others have objects
        )
        assert len(found.results) == 2, provider


def llama_index(url):
    from llama_index.core.llms import ChatMessage
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.llms.openai_like import OpenAILike
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    model = OpenAILike(model="auto", api_base=f"{url}/v1", api_key="unused", is_chat_model=True, max_retries=0)
    assert model.chat([ChatMessage(role="user", content=QUESTION[0]["content"])]).message.content
    pieces = [piece.delta for piece in model.stream_chat([ChatMessage(role="user", content=QUESTION[0]["content"])])]
    assert "".join(piece or "" for piece in pieces)
    assert model.complete("how do i boil an egg ?").text
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS if text]
    ranked = CohereRerank(api_key="unused", base_url=url, model="auto", top_n=2).postprocess_nodes(
        nodes, query_str="how do i boil an egg ?"
    )
    assert len(ranked) == 2


CLIENTS = {"cohere": cohere, "langchain_openai": langchain, "instructor": instructor, "litellm": litellm, "llama_index": llama_index}

if __name__ == "__main__":
    CLIENTS[sys.argv[1]](sys.argv[2])
