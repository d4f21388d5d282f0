"""Clients of others' APIs, used as their documentation does: `python stock_clients.py NAME URL [tools]` ends with 0 if all went well.

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


# --- with tools: a member that passes them calls `weather` for `{"place": "here"}` where it is offered, and says JSON where it is asked for


def langchain_tools(url):
    from langchain_openai import ChatOpenAI
    from pydantic import BaseModel

    class Person(BaseModel):
        """Somebody."""

        name: str
        age: int

    def weather(place: str) -> str:
        """Say what the weather is like."""
        return place

    for responses in (False, True):
        model = ChatOpenAI(
            model="auto", base_url=f"{url}/v1", api_key="unused", max_retries=0, use_responses_api=responses, model_kwargs={"user": "ada"}
        )
        told = model.bind_tools([weather]).invoke("Weather?")
        assert [(call["name"], call["args"]) for call in told.tool_calls] == [("weather", {"place": "here"})]
        assert model.with_structured_output(Person).invoke("Who?") == Person(name="Ada", age=36)
        streamed = None
        for chunk in model.bind_tools([weather]).stream("Weather?"):
            streamed = chunk if streamed is None else streamed + chunk
        assert [(call["name"], call["args"]) for call in streamed.tool_calls] == [("weather", {"place": "here"})]


def instructor_tools(url):
    import instructor
    import openai
    from pydantic import BaseModel

    class weather(BaseModel):  # noqa: N801 - its name is the tool's
        place: str

    plain = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    strict = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
    assert strict.chat.completions.create(model="auto", messages=QUESTION, response_model=weather, max_retries=0).place == "here"


def litellm_tools(url):
    import litellm

    there = {"api_base": f"{url}/v1", "api_key": "unused", "num_retries": 0}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    answer = litellm.completion(model="openai/auto", messages=QUESTION, tools=[tool], **there)
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    assert answer.choices[0].finish_reason == "tool_calls"
    told = litellm.responses(model="openai/auto", input="Weather?", **there)
    assert told.output[0].content[0].text


def agents(url):
    import asyncio

    from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
    from openai import AsyncOpenAI
    from pydantic import BaseModel

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)

    class Person(BaseModel):
        name: str
        age: int

    @function_tool
    def weather(place: str) -> str:
        """Say what the weather is like."""
        return f"sunny {place}"

    async def work():
        for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
            there = {"model": kind(model="auto", openai_client=client), "model_settings": ModelSettings(extra_body={"user": "ada"})}
            agent = Agent(name="a", instructions="Help.", tools=[weather], **there)
            first = await Runner.run(agent, "Weather?")
            assert first.final_output == "It is sunny here."
            again = Runner.run_streamed(agent, [*first.to_input_list(), {"role": "user", "content": "And tomorrow?"}])
            async for _ in again.stream_events():
                pass
            assert again.final_output == "It is sunny here."
            typed = await Runner.run(Agent(name="t", instructions="Tell.", output_type=Person, **there), "Who?")
            assert typed.final_output == Person(name="Ada", age=36)

    asyncio.run(work())


CLIENTS = {"cohere": cohere, "langchain_openai": langchain, "instructor": instructor, "litellm": litellm, "llama_index": llama_index}
WITH_TOOLS = {"langchain_openai": langchain_tools, "instructor": instructor_tools, "litellm": litellm_tools, "agents": agents}

if __name__ == "__main__":
    (WITH_TOOLS if sys.argv[3:] == ["tools"] else CLIENTS)[sys.argv[1]](sys.argv[2])
